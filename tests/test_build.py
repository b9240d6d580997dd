"""A compiled build runs whole and fresh, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway import build
from tests.support.deployed import deployed

SOURCE = "gateway/transport/address.py"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The sources, beside which a build seems to lie."""
    for name, path in build.sources().items():
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        build.extension(copy).touch()
    build.extension(tmp_path / "gateway" / "_stamp.py").touch()
    return tmp_path


def made_from(root: Path) -> str:
    return build.digests(build.sources(root))


def test_what_was_made_from_these_sources_may_run(root: Path) -> None:
    assert build.form(root) == "compiled"
    assert build.fault(root, made_from(root)) == ""


def test_sources_that_changed_since_are_named(root: Path) -> None:
    before = made_from(root)
    with (root / SOURCE).open("a") as file:
        file.write("# edited\n")
    assert build.fault(root, before) == (
        f"Changed since the build was compiled: {SOURCE}; "
        "run 'make compiled' to build it again, or 'make interpreted' to remove it."
    )


def test_a_module_that_came_since_is_named(root: Path) -> None:
    before = made_from(root)
    (root / "gateway/transport/fresh.py").touch()
    assert "lacks gateway/transport/fresh.py;" in build.fault(root, before)
    build.extension(root / "gateway/transport/fresh.py").touch()
    assert "Changed since the build was compiled: gateway/transport/fresh.py;" in build.fault(root, before)


def test_a_build_with_holes_is_refused(root: Path) -> None:
    build.extension(root / SOURCE).unlink()
    assert f"lacks {SOURCE};" in build.fault(root, made_from(root))


def test_compiled_modules_of_an_unknown_build_are_refused(root: Path) -> None:
    build.extension(root / "gateway/_stamp.py").unlink()
    assert "without the stamp" in build.fault(root)
    for path in root.rglob(f"*{build.SUFFIX}"):
        path.unlink()
    assert (build.form(root), build.fault(root)) == ("interpreted", "")


def test_a_cached_build_is_made_again_only_when_its_sources_change(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, sources, made = deployed("compiled"), build.sources(root), []
    monkeypatch.setattr(script, "lacking", lambda: "")
    monkeypatch.setattr(script.build, "form", lambda: "interpreted")
    monkeypatch.setattr(script, "compile_into", lambda target: made.append(target.mkdir(parents=True)))
    monkeypatch.setattr(script.build, "sources", lambda: sources)
    home = tmp_path / "cache"
    first = script.cached(home)
    assert (script.cached(home), len(made)) == (first, 1)
    assert (first / "gateway" / "cli.py").exists()
    with (root / SOURCE).open("a") as file:
        file.write("# edited\n")
    assert script.cached(home) != first
    assert len(made) == 2
    assert "about a minute" in capsys.readouterr().err


def test_without_a_compiler_a_cached_build_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = deployed("compiled")
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    monkeypatch.setattr(script.build, "form", lambda: "interpreted")
    with pytest.raises(script.BuildError, match="interpreted, because this machine lacks the C compiler"):
        script.cached(tmp_path)


def test_the_command_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"turnout {build.version()} (")
    assert build.form() in told
