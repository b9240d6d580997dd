"""The access log of a real gateway: on, rotated, unwritable, off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from benchmarks.children import free_port
from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess

CONFIG = """\
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {{watch: 100ms}}
record: {{flush: 50ms}}
telemetry: {{log: {{format: json}}, access_log: {log}}}
backends: {{dead: {{url: "http://127.0.0.1:{dead}"}}}}
routes:
  predict:
    match: {{path: /predict}}
    variants: {{v1: {{backend: dead}}}}
    policy: {{type: single, variant: v1}}
    fallback: [{{respond: {{status: 200, json: {{}}}}}}]
"""


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_line_for_each_decision_wherever_the_file_is(tmp_path: Path) -> None:
    log, dead = tmp_path / "access.jsonl", free_port()
    text = CONFIG.format(log=log, dead=dead)
    with GatewayProcess(tmp_path, text) as gateway:

        def ask(request_id: str) -> None:
            headers = {"x-request-id": request_id}
            assert httpx.post(f"{gateway.url}/predict", content=b"12345", headers=headers).status_code == 200

        ask("first")
        assert httpx.get(f"{gateway.url}/nowhere").status_code == 404
        wait_for(lambda: lines(log))
        (line,) = lines(log)
        expected = {"request_id": "first", "route": "predict", "assigned": "v1", "served": "", "status": 200}
        assert expected.items() <= line.items()
        assert line["error"] == "backend_connect"
        logged = map(json.loads, gateway.log.splitlines())
        failed = [one for one in logged if "backend dead" in one["message"] and "request_id" in one]
        assert [one["request_id"] for one in failed] == ["first"]

        log.rename(tmp_path / "access.jsonl.1")  # as logrotate does
        ask("second")
        wait_for(lambda: [one["request_id"] for one in lines(log)] == ["second"])

        gateway.write(CONFIG.format(log=tmp_path / "no" / "folder", dead=dead))
        wait_for(lambda: "configuration revision 2 is in force" in gateway.log)
        ask("third")
        wait_for(lambda: "can't be written: No such file or directory" in gateway.log)
        gateway.write(CONFIG.format(log="null", dead=dead))
        wait_for(lambda: "configuration revision 3 is in force" in gateway.log)
        ask("fourth")
        assert gateway.stop() == 0, "the record is written at the end"
    assert [one["request_id"] for one in lines(log)] == ["second"]
