"""KServe's own clients, REST and gRPC, against the bundled model server, directly and through the gateway.

They run in an environment of their own.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.backends.repositories import write_echo
from tests.compat.environments import environment
from tests.support.processes import GatewayProcess, ModelServerProcess

SCRIPT = Path(__file__).parent / "kserve_client.py"


CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
backends: {rest: {url: "@REST@"}, rpc: {url: "h2c://@RPC@"}}
routes:
  rest:
    match: {path: /v2, protocol: v2}
    variants: {v1: {backend: rest}}
    policy: {type: single, variant: v1}
  rpc:
    match: {grpc: inference.GRPCInferenceService, protocol: v2}
    variants: {v1: {backend: rpc}}
    policy: {type: single, variant: v1}
"""


@pytest.mark.parametrize("through", [False, True], ids=["directly", "through the gateway"])
def test_kserves_clients_in_every_combination(tmp_path: Path, through: bool) -> None:
    python = environment("kserve") / "bin" / "python"
    for datatype in ("FP32", "INT64", "BOOL", "FP16", "BYTES"):
        write_echo(tmp_path / "models", datatype)
    with ExitStack() as stack:
        server = stack.enter_context(ModelServerProcess(tmp_path / "models", "--grpc-port", "0"))
        server.wait_ready()
        rest, rpc = server.url, server.announced(r"gRPC on (\S+)")
        if through:
            config = CONFIG.replace("@REST@", rest).replace("@RPC@", rpc)
            gateway = stack.enter_context(GatewayProcess(tmp_path, config))
            rest, rpc = gateway.url, gateway.address
        ran = subprocess.run(
            [python, SCRIPT, rest, rpc], capture_output=True, text=True, timeout=120, check=False
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
