"""The dashboard's files: served as they are, bound to their own origin, and all of them there."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from dashboards.site import TYPES, Site
from gateway.control.dashboard_calls import HEADERS

ASSETS = Site().assets
TEXTS = {name: asset.body.decode() for name, asset in ASSETS.items()}
SVG = "http://www.w3.org/2000/svg"


def test_every_file_is_served_with_its_type_and_a_tag_of_its_content() -> None:
    root = Path(__file__).parents[2] / "dashboards" / "web"
    there = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert set(ASSETS) == there
    assert {a.media_type for a in ASSETS.values()} == set(TYPES.values())
    assert len({a.etag for a in ASSETS.values()}) == len(ASSETS)


def test_nothing_is_asked_of_anybody_else() -> None:
    for name, text in TEXTS.items():
        assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text.replace(SVG, "")) == [], name
        assert "@import" not in text, name


def test_nothing_is_inline_that_the_policy_forbids() -> None:
    for name, text in TEXTS.items():
        if name.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son\w+=", text), name
            assert all(
                not body.strip() for body in re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
            ), name
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")


def test_every_module_and_file_that_is_named_is_there() -> None:
    for name, text in TEXTS.items():
        folder = PurePosixPath(name).parent
        named = re.findall(r'from "(\./[^"]+|\.\./[^"]+)"', text) if name.endswith(".js") else []
        named += re.findall(r'(?:src|href)="([\w./-]+\.\w+)"', text) if name.endswith(".html") else []
        for one in named:
            parts: list[str] = []
            for part in (folder / one).parts:
                if part == "..":
                    parts.pop()
                elif part != ".":
                    parts.append(part)
            assert "/".join(parts) in ASSETS, (name, one)


def test_a_name_outside_is_no_file() -> None:
    site = Site()
    for name in ("../site.py", "/etc/passwd", "", ".", "web/app.js", "app.js/", "..\\site.py"):
        assert site.find(name) is None


def test_both_dark_themes_are_one() -> None:
    """The system's dark theme and the chosen one are written twice; they must say the same."""
    blocks = re.findall(
        r":root(?::not\(\[data-theme=\"light\"\]\)|\[data-theme=\"dark\"\]) {(.*?)}",
        TEXTS["style.css"],
        re.DOTALL,
    )
    first, second = (re.sub(r"\s+", " ", block).strip() for block in blocks)
    assert first == second
