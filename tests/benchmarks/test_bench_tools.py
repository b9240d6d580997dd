from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import instructions, profile


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        (profile, r"needs py-spy; install it with: pip install -e '\.\[bench\]'"),
        (instructions, "needs valgrind; "),
    ],
    ids=["profile", "instructions"],
)
def test_a_benchmark_without_its_tool_ends_in_one_line(
    benchmark: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=said):
        benchmark.main()  # type: ignore[attr-defined]
