"""Watching a real file: edits, replacement, links, what is half written or gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config.load import ConfigError
from gateway.config.watch import FilesWatch, FileWatch, signatures


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("one")
    return path


def settled(file: Path, known: str = "one") -> FileWatch:
    watch = FileWatch(file, known)
    assert [watch.look() for _ in range(3)] == [None, None, None]
    return watch


def test_an_edit_is_told_once_it_has_settled(file: Path) -> None:
    watch = settled(file)
    file.write_text("two")
    assert [watch.look() for _ in range(4)] == [None, "two", None, None]


def test_a_file_that_keeps_changing_is_not_read(file: Path) -> None:
    watch = settled(file)
    for text in ("t", "tw", "two", "two!"):
        file.write_text(text)
        assert watch.look() is None
    assert watch.look() == "two!"


def test_a_change_before_the_first_look_is_told(file: Path) -> None:
    watch = FileWatch(file, "what the caller has read before")
    assert [watch.look() for _ in range(3)] == [None, "one", None]


def test_the_same_text_again_is_no_change(file: Path) -> None:
    watch = settled(file)
    os.utime(file, ns=(1, 1))
    assert [watch.look() for _ in range(3)] == [None, None, None]


def test_an_edit_of_the_same_size_is_seen(file: Path) -> None:
    watch = settled(file)
    file.write_text("eno")
    assert [watch.look() for _ in range(2)] == [None, "eno"]


def test_atomic_replacement(file: Path) -> None:
    watch = settled(file)
    other = file.with_name("new")
    other.write_text("two")
    other.rename(file)
    assert [watch.look() for _ in range(3)] == [None, "two", None]


def test_a_swapped_link(tmp_path: Path) -> None:
    """How Kubernetes updates a mounted ConfigMap."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(name)
    link = tmp_path / "data"
    link.symlink_to("one")
    watch = settled(link / "config.yaml")
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    assert [watch.look() for _ in range(3)] == [None, "two", None]


def test_a_file_that_is_gone_for_a_while(file: Path) -> None:
    watch = settled(file)
    file.unlink()
    assert [watch.look() for _ in range(3)] == [None, None, None]
    file.write_text("two")
    assert [watch.look() for _ in range(3)] == [None, "two", None]


def test_bad_bytes_are_reported_once_and_then_over(file: Path) -> None:
    watch = settled(file)
    file.write_bytes(b"\xff")
    assert watch.look() is None
    with pytest.raises(ConfigError, match="not UTF-8"):
        watch.look()
    assert watch.look() is None
    file.write_text("two")
    assert [watch.look() for _ in range(3)] == [None, "two", None]


def test_a_file_that_could_not_be_read_is_read_again_although_it_has_not_changed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no file descriptor left, for example."""
    watch = settled(file)
    file.write_text("two")
    assert watch.look() is None
    with monkeypatch.context() as patch:
        patch.setattr("gateway.config.load.Path.open", lambda *_: os.open(file / "within", os.O_RDONLY))
        with pytest.raises(ConfigError, match="can't be read"):
            watch.look()
        assert (watch.look(), watch.unreadable) == (None, True)
    assert (watch.look(), watch.unreadable) == ("two", False)
    assert watch.look() is None


def test_permissions_that_are_mended_are_a_change(file: Path) -> None:
    built, before = signatures([str(file)]), file.stat().st_ctime_ns
    while file.stat().st_ctime_ns == before:  # many kernels count it in steps of milliseconds
        file.chmod(0o600)
    watch = FilesWatch()
    assert [watch.look(built) for _ in range(3)] == [False, True, False]


def test_files_that_a_document_names(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_text("one")
    key.write_text("one")
    watch, built = FilesWatch(), signatures([str(cert), str(key)])
    assert [watch.look(built) for _ in range(3)] == [False] * 3
    cert.write_text("two")
    assert watch.look(built) is False  # the key may be about to follow
    key.write_text("two!")
    assert [watch.look(built) for _ in range(4)] == [False, True, False, False]  # not built: it is told once
    key.unlink()
    assert [watch.look(built) for _ in range(3)] == [False] * 3
    key.write_text("three")
    assert [watch.look(built) for _ in range(3)] == [False, True, False]
    built = signatures(built)
    assert [watch.look(built) for _ in range(3)] == [False] * 3


def test_a_change_before_the_first_look_is_seen(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.write_text("one")
    built = signatures([str(cert)])
    cert.write_text("renewed")
    watch = FilesWatch()
    assert [watch.look(built) for _ in range(3)] == [False, True, False]
