"""The dashboard's files: one script, one sheet, bound to their own origin, and small."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from dashboards.bundle import bundle, modules, part, parts
from dashboards.site import PAGES, PARTS, Site
from gateway.control.handlers.dashboard import HEADERS
from tests.dashboards import glossary

WEB = Path(__file__).parents[2] / "dashboards" / "web"
SITE = Site()
SOURCES = {
    p.relative_to(WEB).as_posix(): p.read_text()
    for p in WEB.rglob("*")
    if p.suffix in (".js", ".css", ".html")
}
OURS = {name: text for name, text in SOURCES.items() if not name.startswith("vendor/")}
SVG = "http://www.w3.org/2000/svg"


def named(page: str) -> list[str]:
    html = SITE.page(page).body.decode()
    return re.findall(r'(?:src|href)="([\w./-]+\.(?:js|css))"', html)


def later() -> list[str]:
    """The names of the scripts that the page's own loads when it needs them."""
    (app,) = named("index.html")
    return re.findall(r'import\("\./([\w.]+)"\)', SITE.assets[app].body.decode())


def test_the_first_page_is_two_requests_of_forty_kilobytes_and_each_other_three_of_seventy() -> None:
    """Requests of a first load, without the calls of the API: the HTML, the script, and the page's part."""
    (app,) = named("index.html")
    assert re.fullmatch(r"app\.[0-9a-f]{16}\.js", app)
    sent = len(SITE.assets[app].gzipped) + len(SITE.page("index.html").gzipped)
    assert sent < 40_000
    assert {name.split(".")[0] for name in later()} == {Path(part).stem for part in PARTS.values() if part}
    for name in later():
        assert sent + len(SITE.assets[name].gzipped) < 70_000, name


def test_a_page_names_its_part_so_that_both_scripts_load_at_a_time() -> None:
    for path, needed in {
        "": "",
        "routes/a%2Fb": "decide",
        "routes/r/time": "time",
        "routes/r/shadow/s": "shadow",
        "decisions/01": "decision",
        "terms": "terms",
    }.items():
        html = SITE.page("index.html", path).body.decode()
        found = re.findall(r'<link rel="modulepreload" href="((?:\.\./)*)(\w+)(\.[0-9a-f]{16}\.js)">', html)
        assert [name for _, name, _ in found] == ([needed] if needed else []), path
        for home, name, end in found:
            assert home == "../" * path.count("/")
            assert name + end in later()
    assert b"modulepreload" not in SITE.page("login.html").body


def test_the_terms_are_those_of_the_glossary() -> None:
    assert glossary.shown() == glossary.terms(), "run: python -m tests.dashboards.glossary"
    assert len(glossary.terms()) > 30


def test_only_the_part_with_charts_carries_their_library() -> None:
    for name, asset in SITE.assets.items():
        assert (b"uPlot" in asset.body) == name.startswith("time."), name


def test_what_is_named_by_its_hash_is_kept_for_good_and_found_from_every_page() -> None:
    for name in (*named("index.html"), *later()):
        asset = SITE.find(name)
        assert asset is not None
        assert asset.immutable
        assert hashlib.sha256(asset.body).hexdigest().startswith(name.split(".")[1])
        assert gzip.decompress(asset.gzipped) == asset.body
    deep = SITE.page("index.html", "routes/x/shadow/y").body.decode()
    assert re.search(r'src="\.\./\.\./\.\./app\.[0-9a-f]{16}\.js"', deep)


def test_nothing_is_asked_of_another_origin() -> None:
    for name, text in OURS.items():
        assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text.replace(SVG, "")) == [], name
        assert "@import" not in text, name


def test_nothing_is_inline_that_the_policy_forbids() -> None:
    for name, text in SOURCES.items():
        if name.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son\w+=", text), name
            scripts = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
            assert all(not body.strip() for body in scripts), name
    for name, text in OURS.items():
        assert not re.search(r"innerHTML|InnerHTML|insertAdjacentHTML|\beval\(|new Function", text), name
    policy = HEADERS["content-security-policy"]
    for page in ("index.html", "login.html"):
        (sheet,) = re.findall(r"<style>(.*?)</style>", SITE.page(page).body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    assert "require-trusted-types-for 'script'" in policy


def test_vendored_files_are_those_that_are_listed() -> None:
    listed = json.loads((WEB.parent / "vendor.json").read_text())
    known = {one["file"]: one["sha256"] for one in listed.values()}
    there = {p.relative_to(WEB).as_posix() for p in (WEB / "vendor").iterdir()} - {"vendor/LICENSES.txt"}
    assert set(known) == there
    for name, digest in known.items():
        assert hashlib.sha256((WEB / name).read_bytes()).hexdigest() == digest, name
    assert all(one["version"] and one["licence"] and one["source"] for one in listed.values())
    licences = (WEB / "vendor" / "LICENSES.txt").read_text()
    assert "Leon Sorokin" in licences
    assert "Jason Miller" in licences


def test_every_module_is_part_of_a_page() -> None:
    read: set[str] = set()

    def reading(name: str) -> str:
        read.add(name)
        return SOURCES[name]

    for entry in ("app.js", "login.js", *parts("app.js", SOURCES.__getitem__)):
        modules(entry, reading)
    assert read == {name for name in SOURCES if name.endswith(".js")}


def test_a_bundle_joins_modules_and_refuses_what_it_does_not_understand() -> None:
    written = {
        "a.js": 'import { f } from "./b.js";\nexport const x = f();\n',
        "b.js": "export function f() {\n  return 1;\n}\n",
    }
    text = bundle("a.js", written.__getitem__)
    assert text.index("const $b=") < text.index("const $a=")
    assert "const {f}=$b;" in text
    written |= {
        "a.js": 'import { f } from "./b.js";\nconst late = () => import("./c.js");\n',
        "c.js": 'import { f } from "./b.js";\nexport const y = f();\n',
    }
    assert parts("a.js", written.__getitem__) == ["c.js"]
    assert 'import("./c.0.js")' in bundle("a.js", written.__getitem__, {"c.js": "c.0.js"})
    late = part("c.js", "a.js", written.__getitem__)
    assert "return 1" not in late, "what the script has is not sent twice"
    assert late.endswith("export const{y}=$c;\n")
    with pytest.raises(ValueError, match="import each other"):
        bundle(
            "a.js",
            {"a.js": 'import { y } from "./b.js";\n', "b.js": 'import { x } from "./a.js";\n'}.__getitem__,
        )
    with pytest.raises(ValueError, match="does not understand"):
        bundle("a.js", {"a.js": "export default 1;\n"}.__getitem__)


def test_a_name_outside_is_no_file_and_no_page() -> None:
    for name in (
        "../site.py",
        "/etc/passwd",
        ".",
        "web/app.js",
        "app.js",
        "app.js/",
        "..\\site.py",
        "routes/a/b",
    ):
        assert SITE.find(name) is None
        assert not PAGES.fullmatch(name)
    for page in (
        "",
        "routes/a%2Fb",
        "routes/r/time",
        "routes/r/shadow/s",
        "outcomes",
        "decisions/01",
        "config",
        "events",
        "terms",
    ):
        assert PAGES.fullmatch(page)


def test_both_dark_themes_are_one() -> None:
    """The system's dark theme and the chosen one are written twice; they must say the same."""
    blocks = re.findall(
        r":root(?::not\(\[data-theme=\"light\"\]\)|\[data-theme=\"dark\"\]) {(.*?)}",
        SOURCES["style.css"],
        re.DOTALL,
    )
    first, second = (re.sub(r"\s+", " ", block).strip() for block in blocks)
    assert first == second
