"""KServe's own clients, REST and gRPC, against the bundled model server; they run in an environment of their own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.backends.repositories import write_echo
from tests.compat.environments import environment
from tests.support.processes import ModelServerProcess

SCRIPT = Path(__file__).parent / "kserve_client.py"


def test_kserves_clients_in_every_combination(tmp_path: Path) -> None:
    python = environment("kserve") / "bin" / "python"
    for datatype in ("FP32", "INT64", "BOOL", "FP16", "BYTES"):
        write_echo(tmp_path, datatype)
    with ModelServerProcess(tmp_path, "--grpc-port", "0") as server:
        server.wait_ready()
        rpc = server.announced(r"gRPC on (\S+)")
        ran = subprocess.run(
            [python, SCRIPT, server.url, rpc], capture_output=True, text=True, timeout=120, check=False
        )
        assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found.pop("rest absent") is False
    assert "no model 'absent'" in found.pop("rest error")
    flags = [found.pop(name) for name in list(found) if isinstance(found[name], bool)]
    assert flags == [True] * 6
    assert len(found) == 36
    for name, seen in found.items():
        datatype = name.split()[1]
        expected = {
            "equal": True,
            "datatype": datatype,
            "name": "y",
            "model": f"echo_{datatype}",
            "id": "seven",
        }
        assert seen == expected, name
