"""Reading YAML: what values become, where they are, and what no file can do to us."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from gateway.config.faults import Fault
from gateway.config.permitted import permitted
from gateway.config.yaml_text import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_SECRET_BYTES,
    MAX_VALUES,
    read,
)
from gateway.runtime.collector import collector_paused


def data_of(text: str, env: dict[str, str] | None = None) -> object:
    tree, faults = read(text, env or {})
    assert faults == []
    assert tree is not None
    return tree.data


def only_fault(text: str, env: dict[str, str] | None = None) -> Fault:
    _, faults = read(text, env or {})
    assert len(faults) == 1, faults
    return faults[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("22:22", "22:22"), ("1:30:00", "1:30:00"),
     ("1_000", "1_000"), ("2024-01-31", "2024-01-31"), ("010", 10), ("0o17", 15), ("0x1F", 31),
     ("1e3", 1000.0), ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("''", ""),
     ('"no"', "no"),
     ("1.", 1.0), (".5", 0.5), ("-3", -3), ("+3", 3), ("=", "="), ("1.2.3", "1.2.3"), ("0b11", "0b11")],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    data = data_of(f"a: {text}")
    assert data == {"a": value}
    assert isinstance(data, dict)
    assert type(data["a"]) is type(value)


def test_keys_are_text() -> None:
    assert data_of("{1: a, no: b, 1.10: c, true: d}") == {"1": "a", "no": "b", "1.10": "c", "true": "d"}


def test_every_key_and_value_has_its_place() -> None:
    tree, _ = read("a:\n  b: [x, y]\n  c: {d: 1}\n", {})
    assert tree is not None
    assert tree.place(("a", "b")) == (2, 6)
    assert tree.place(("a", "b"), key=True) == (2, 3)
    assert tree.place(("a", "b", 1)) == (2, 10)
    assert tree.place(("a", "c", "d")) == (3, 10)
    assert tree.place(("a", "nowhere", 3)) == (1, 1)
    assert tree.place(("nowhere",)) == (1, 1)


def test_anchors_and_merges() -> None:
    text = "base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\nboth: {<<: [{b: 9}, *base]}\nsame: *base\n"
    assert data_of(text) == {
        "base": {"a": 1, "b": 2},
        "mine": {"a": 1, "b": 3},
        "both": {"a": 1, "b": 9},
        "same": {"a": 1, "b": 2},
    }


def test_a_quoted_merge_key_is_a_key() -> None:
    assert data_of('{"<<": 1}') == {"<<": 1}


def test_a_merge_of_what_is_no_mapping() -> None:
    assert "'<<' takes in a mapping" in only_fault("a: {<<: [1]}").message


def test_variables() -> None:
    env = {"A": "x: [1]", "N": "5"}
    assert data_of("a: ${A}\nb: 'p${N}s'\nc: ${M:-z}\nd: $${N}\ne: ${N:-1}\nf: $N", env) == {
        "a": "x: [1]", "b": "p5s", "c": "z", "d": "${N}", "e": "5", "f": "$N",
    }  # fmt: skip


def test_a_variable_that_is_not_set() -> None:
    fault = only_fault("a:\n  b: ${NOPE}")
    assert (fault.line, fault.column, fault.path) == (2, 6, "a.b")
    assert fault.message == "the environment variable 'NOPE' is not set"


def test_a_variable_that_is_not_text() -> None:
    fault = only_fault("a:\n  b: x${LATIN}", {"LATIN": os.fsdecode(b"caf\xe9")})
    assert (fault.line, fault.column, fault.path) == (2, 6, "a.b")
    assert fault.message == "the environment variable 'LATIN' is not UTF-8 text"


def test_the_content_of_a_file(tmp_path: Path) -> None:
    secret, absent, long = tmp_path / "secret", tmp_path / "absent", tmp_path / "long"
    secret.write_text("s3cret: #\n")
    long.write_bytes(b"x" * (MAX_SECRET_BYTES + 1))
    assert data_of(f"a: 'Bearer ${{file:{secret}}}'") == {"a": "Bearer s3cret: #"}
    assert data_of("a: ${file:-plain}", {}) == {"a": "plain"}, "a variable named file, with a default"
    tree, _ = read(f"a: ${{file:{secret}}}\nb: ${{NAME}}", {})
    assert tree is not None
    assert tree.variables == {f"file:{secret}": 1, "NAME": 2}
    assert tree.secret_files == {str(secret)}
    assert "No such file or directory" in only_fault(f"a: ${{file:{absent}}}").message
    assert "more than 65536 bytes" in only_fault(f"a: ${{file:{long}}}").message
    secret.write_bytes(b"\xff")
    assert (
        only_fault(f"a: ${{file:{secret}}}").message
        == f"the file '{secret}' can't be read: it is not UTF-8 text"
    )


@pytest.mark.parametrize(
    "text",
    [
        'a: "\\x24{HOME}"', 'a: "$\\\n  {HOME}"', 'a: "x\n  #${HOME}"', "a: |\n  # ${HOME}",
        'a: "${HO\\\n  ME}"', "a: {<<: {b: '${HOME}'}}", "a: &x ['${HOME:-x}']\nb: *x",
    ],
)  # fmt: skip
def test_a_variable_is_known_however_it_is_spelled(text: str) -> None:
    assert permitted(text, {}) == {"HOME"}
    tree, faults = read(text, {"HOME": "/secret"}, allowed=())
    assert "does not name ${HOME}" in faults[0].message
    assert "/secret" not in str((tree and tree.data, faults))


def test_a_fault_in_a_mapping_that_is_merged_where_it_stands() -> None:
    assert "'NOPE' is not set" in only_fault("a: {<<: {b: '${NOPE}'}}").message
    assert "'NOPE' is not set" in only_fault("a: &x {b: '${NOPE}'}\nc: {<<: *x}").message, "said once"


def test_a_variable_without_a_name() -> None:
    assert only_fault("a: ${1}").hint == "write ${NAME}, ${file:PATH}, or $${ for '${' itself"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' is already in line 1"),
        ("a: {b: 1, b: 2}", 1, "the key 'b' is already in line 1"),
        ("x:\n  ? [a]\n  : b", 2, "a key is a list or a mapping"),
        ("a: !!python/object/apply:os.system [ls]", 1, "the tag '!!python/object/apply:os.system'"),
        ("a: !secret x", 1, "the tag '!secret'"),
        ("a: !!int x", 1, "'x' is not a number"),
        ("a: " + "9" * 5000, 1, "is not a number"),
        ("a: &a [*a]", 1, "contains itself"),
        ("a: &a {<<: *a}", 1, "contains itself"),
        ("a: *nope", 1, "undefined alias"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a:\n\t- b", 2, "not valid YAML"),
        ("a: b: c", 1, "mapping values are not allowed"),
        ("a: [1, 2", 1, "not valid YAML"),
        ("", 1, "the file is empty"),
        ("# nothing", 1, "the file is empty"),
        ("a: 1\nb: é\x00", 2, "characters are not allowed (U+0000); remove it"),
        ("\ud800", 0, "half a character"),
    ],
)
def test_what_is_no_good(text: str, line: int, said: str) -> None:
    fault = only_fault(text)
    assert said in fault.message
    assert fault.line in (line, line + 1 if "[1" in text else line)


def test_a_tab_has_a_hint() -> None:
    assert "indent with spaces" in only_fault("a:\n\t- b").hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a:\n  b c\n  d: 1", "indentation"),
        ("a:\n   b: 1\n  c: 1", "indentation"),
        ("a:\n  - b\n  c: 1", "begin every entry with '- '"),
    ],
)
def test_wrong_indentation_has_a_hint(text: str, hint: str) -> None:
    assert hint in only_fault(text).hint


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 50_000])
def test_depth_is_bounded(text: str) -> None:
    assert f"more than {MAX_DEPTH} deep" in only_fault(text).message


def test_depth_by_anchors_is_bounded() -> None:
    lines = ["a0: &a0 {x: {x: {x: {x: {x: 1}}}}}"]
    lines += [f"a{n}: &a{n} {{x: {{x: {{x: {{x: *a{n - 1}}}}}}}}}" for n in range(1, 20)]
    assert f"more than {MAX_DEPTH} deep" in only_fault("\n".join(lines)).message


def test_a_billion_laughs_are_cut_short() -> None:
    lines = ["a0: &a0 [" + ", ".join("x" * 10) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 10)]
    assert "more than 100000 values" in only_fault("\n".join(lines)).message


def test_size_is_bounded() -> None:
    assert f"more than {MAX_CHARACTERS} characters" in only_fault("a" * (MAX_CHARACTERS + 1)).message


def test_a_text_with_too_many_values_is_not_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Composing a mebibyte of short values held up other threads for a second."""

    def composed(*_: object, **__: object) -> None:
        raise AssertionError("composed")

    monkeypatch.setattr("yaml.compose", composed)
    tree, (fault,) = read("[" + "x," * (2 * MAX_VALUES + 1) + "]", {})
    assert tree is None
    assert f"more than {MAX_VALUES} values" in fault.message


@pytest.mark.parametrize(
    "text", ["x: [" + "1, " * 20_000 + "]", "x: [" + "{a: 1}, " * 20_000], ids=["good", "cut"]
)
def test_no_garbage_collection_holds_up_other_threads_meanwhile(text: str) -> None:
    """With 5,000 routes one collection took 0.5 to 0.8 s."""
    collections: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            collections.append(phase)

    gc.callbacks.append(note)
    try:
        read(text, {})
        assert len(collections) <= 1, "at most one, when it is on again"
    finally:
        gc.callbacks.remove(note)
    assert gc.isenabled()


def test_the_collector_is_off_until_the_last_pause_ends() -> None:
    """Of threads that overlap, and as it was before."""
    state = collector_paused(gc.isenabled)
    assert collector_paused(lambda: [state(), gc.isenabled()])() == [False, False]
    assert gc.isenabled()
    gc.disable()
    try:
        assert not state()
        assert not gc.isenabled()
    finally:
        gc.enable()
