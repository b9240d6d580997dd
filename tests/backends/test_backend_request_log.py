"""The request log: what a line holds, and what it leaves out."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest

from backends import request_log, request_sinks
from backends.batching.entry import Entry
from backends.wire.signature import Signature
from tests.backends.repositories import write_model
from tests.support.processes import ModelServerProcess

PAIR = """
class Model:
    def __call__(self, secret, text):
        if (secret < 0).any():
            raise RuntimeError("hidden detail")
        return {"y": secret * 2, "out": text}
"""
INPUTS = {"secret": ("FP32", [3]), "text": ("BYTES", [1])}
OUTPUTS = {"y": ("FP32", [3]), "out": ("BYTES", [1])}


def ask(server: ModelServerProcess, first: float) -> int:
    tensors = [
        {"name": "secret", "datatype": "FP32", "shape": [1, 3], "data": [first, 2, 3]},
        {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["x" * 1000]},
    ]
    return httpx.post(f"{server.url}/v2/models/m/infer", json={"inputs": tensors}).status_code


def logged(tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    file = tmp_path / "requests.jsonl"
    serve(tmp_path, file, *options)
    return [json.loads(line) for line in file.read_text().splitlines()]


def serve(tmp_path: Path, file: Path, *options: str) -> None:
    write_model(tmp_path / "models", "m", PAIR, INPUTS, OUTPUTS)
    with ModelServerProcess(tmp_path / "models", "--request-log", str(file), *options) as server:
        server.wait_ready()
        assert [ask(server, first) for first in (1, -1, 7)] == [200, 500, 200]
        assert server.stop() == 0


def test_lines_hold_requests_and_results(tmp_path: Path) -> None:
    first, second, third = logged(tmp_path, "--request-log-values", "2")
    assert (first["model"], first["version"], first["rows"], first["status"]) == ("m", "1", 1, 200)
    assert first["inputs"][0] == {
        "name": "secret",
        "datatype": "FP32",
        "shape": [1, 3],
        "data": [1, 2],
        "truncated": True,
    }
    assert (first["inputs"][1]["data"], first["inputs"][1]["truncated"]) == (["x" * 256], True)
    assert first["outputs"][0]["data"] == [2, 4]
    assert first["milliseconds"] > 0
    assert second["status"] == 500
    assert "RuntimeError" in second["error"]
    assert "outputs" not in second
    assert third["outputs"][0]["data"] == [14, 4]


def test_parquet_files_hold_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "requests.parquet"
    serve(tmp_path, folder, "--request-log-values", "2", "--request-log-redact", "text")
    (file,) = folder.iterdir()
    first, second, third = pyarrow.parquet.read_table(file).to_pylist()
    assert (first["model"], first["version"], first["rows"], first["status"]) == ("m", "1", 1, 200)
    assert abs((datetime.now(UTC) - first["time"]).total_seconds()) < 600
    secret = {"name": "secret", "datatype": "FP32", "shape": [1, 3], "data": "[1.0,2.0]"}
    text = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": None}
    assert first["inputs"] == [
        {**secret, "truncated": True, "redacted": False},
        {**text, "truncated": False, "redacted": True},
    ]
    assert (second["status"], second["outputs"], "RuntimeError" in second["error"]) == (500, None, True)
    assert (third["error"], json.loads(third["outputs"][0]["data"])) == (None, [14, 4])


def test_parquet_files_are_whole_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_sinks, "MAX_FILE_REQUESTS", 3)
    sink = request_sinks.open_sink(tmp_path / "r.parquet")
    line = b'{"time": "2026-11-28T21:00:00.000+00:00", "model": "m", "rows": 1, "inputs": []}'
    for _ in range(7):
        sink.write(line)
        sink.idle()
    monkeypatch.setattr(request_sinks, "MAX_FILE_S", 0.0)
    assert len(list((tmp_path / "r.parquet").iterdir())) == 2, "the seventh waits for others"
    sink.idle()
    sink.close()
    tables = [pyarrow.parquet.read_table(file) for file in sorted((tmp_path / "r.parquet").iterdir())]
    assert [table.num_rows for table in tables] == [3, 3, 1]


def test_a_full_disk_is_said_once_and_what_it_cost_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "IDLE_S", 0.01)
    monkeypatch.setattr(request_log, "RETRY_S", 0.01)
    log = request_log.RequestLog(request_log.RequestLogSettings(Path("/dev/full")))
    for _ in range(3):
        log.offer("m", "1", Signature({}, {}, 0, ((), ())), Entry((), 1, (), 0), [])
        time.sleep(0.05)
    log.close()
    assert caplog.text.count("the request log can't be written: No space left on device") == 1
    assert "the request log lost 3 lines" in caplog.text


def test_a_disk_that_is_full_for_a_while_tears_no_line(tmp_path: Path) -> None:
    sink = request_sinks.open_sink(tmp_path / "requests.jsonl")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        for number in range(4):
            with contextlib.suppress(OSError):
                sink.write(json.dumps([number, "a" * 30_000]).encode() + b"\n")
                sink.idle()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    sink.write(b"[4]\n")
    sink.close()
    kept = [json.loads(line)[0] for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert len(kept) + sink.lost == 5
    assert kept[-1] == 4


def test_a_parquet_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    sink = request_sinks.open_sink(tmp_path / "r.parquet")
    for _ in range(3):
        sink.write(b'{"time": "2026-11-28T21:00:00.000+00:00", "model": "m", "rows": 1, "inputs": []}')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (list((tmp_path / "r.parquet").iterdir()), sink.lost) == ([], 3)


def test_redacted_tensors_have_no_values(tmp_path: Path) -> None:
    for line in logged(tmp_path, "--request-log-redact", "secret", "--request-log-redact", "y"):
        assert line["inputs"][0] == {"name": "secret", "datatype": "FP32", "shape": [1, 3], "redacted": True}
        assert "data" in line["inputs"][1]
        if line["status"] == 200:
            assert "data" not in line["outputs"][0]


def test_a_redacted_name_that_no_model_has_is_said(tmp_path: Path) -> None:
    write_model(tmp_path, "m", PAIR, INPUTS, OUTPUTS, precision="tf32")
    log = tmp_path / "requests.jsonl"
    options = ("--request-log-redact", "secret", "--request-log-redact", "sceret")
    with ModelServerProcess(tmp_path, "--request-log", str(log), *options) as server:
        server.wait_ready()
        assert server.stop() == 0
    told = [line for line in server.log.splitlines() if "redacts nothing" in line]
    assert len(told) == 1
    assert "sceret redacts nothing: no model has such a tensor; they have out, secret, text, y" in told[0]
    assert server.log.count("model m version 1: precision tf32 has no effect on CPUs") == 1


def test_a_sample_of_none_writes_nothing(tmp_path: Path) -> None:
    assert logged(tmp_path, "--request-log-sample", "0") == []


def test_a_file_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m", PAIR, INPUTS, OUTPUTS)
    words = [sys.executable, "-m", "backends.cli", "--models", str(tmp_path / "models"), "--port", "0"]
    done = subprocess.run(
        [*words, "--request-log", str(tmp_path / "absent" / "x")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "the request log can't be opened" in done.stderr
