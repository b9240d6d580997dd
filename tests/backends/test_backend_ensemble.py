"""Ensembles: models of one server in a chain, checked when they are loaded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from backends import ensemble_steps
from backends import registry as registry_module
from backends.batching.entry import FutureEntry
from backends.errors import InvalidInput, LoadError, ModelFailed, Unavailable
from backends.pages import Pages
from backends.registry import Registry
from backends.server import KINDS
from tests.backends.repositories import SLEEPER, write_model, write_picky
from tests.support.processes import ModelServerProcess

PLUS = "class Model:\n    def __init__(self, by=1.0): self.by = by\n    def __call__(self, x): return x + self.by"
ADD = "class Model:\n    def __call__(self, a, b): return a + b"
X = {"x": ("FP32", [2])}
Y = {"y": ("FP32", [2])}


def step(model: str, inputs: dict[str, str], outputs: dict[str, str], version: int = -1) -> dict[str, Any]:
    return {"model_name": model, "model_version": version, "input_map": inputs, "output_map": outputs}


DIAMOND = [
    step("add", {"a": "left", "b": "right"}, {"y": "y"}),
    step("plus", {"x": "x"}, {"y": "left"}),
    step("plus", {"x": "left"}, {"y": "right"}),
]


def write_ensemble(root: Path, name: str, steps: list[dict[str, Any]], **config: Any) -> None:
    given = {"inputs": X, "outputs": Y, **config}
    inputs, outputs = given.pop("inputs"), given.pop("outputs")
    scheduling = {"step": steps}
    write_model(
        root, name, None, inputs, outputs, platform="ensemble", ensemble_scheduling=scheduling, **given
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_model(tmp_path, "plus", PLUS, X, Y)
    write_model(tmp_path, "add", ADD, {"a": ("FP32", [2]), "b": ("FP32", [2])}, Y)
    return tmp_path


def ask(values: list[float], rows: int = 1) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": values}]}


async def test_a_diamond_of_steps_over_http(root: Path, tmp_path: Path) -> None:
    write_ensemble(root, "a-diamond", DIAMOND)
    log = tmp_path / "requests.jsonl"
    with ModelServerProcess(root, "--allow-load", "--request-log", str(log)) as server:
        server.wait_ready()
        async with httpx.AsyncClient(base_url=server.url) as client:
            url = "/v2/models/a-diamond/infer"
            answers = await asyncio.gather(
                *(client.post(url, json=ask([n, n, 2 * n, 0], 2)) for n in range(20))
            )
            for number, answer in enumerate(answers):
                got = answer.json()["outputs"][0]["data"]
                assert got == [2.0 * value + 3 for value in (number, number, 2 * number, 0)]
            (stats,) = (await client.get("/v2/models/a-diamond/stats")).json()["model_stats"]
            assert stats["inference_count"] == 40
            durations = stats["inference_stats"]
            counts = [durations[name]["count"] for name in ("success", "queue", "compute_infer")]
            assert counts == [20] * 3, "perf_analyzer looks for the version whose queue has grown"
            (parts,) = (await client.get("/v2/models/plus/stats")).json()["model_stats"]
            assert parts["inference_count"] == 80
            raw = np.array([[1, 2]], "<f4").tobytes()
            head = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
            binary = await client.post(
                url, content=head + raw, headers={"inference-header-content-length": str(len(head))}
            )
            assert binary.json()["outputs"][0]["data"] == [5, 7]

            wider = {"x": ("FP32", [3])}, {"y": ("FP32", [3])}
            write_model(root, "plus", PLUS, *wider)
            assert (await client.post("/v2/repository/models/plus/load")).status_code == 200
            changed = await client.post(url, json=ask([1, 1]))
            assert (changed.status_code, "the ensemble is checked again" in changed.text) == (503, True)
            write_model(root, "plus", PLUS, X, Y)
            assert (await client.post("/v2/repository/models/plus/load")).status_code == 200
            async with asyncio.timeout(60):
                while (await client.post(url, json=ask([1, 1]))).status_code != 200:
                    await asyncio.sleep(0.2)
        assert server.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    statuses = Counter(line["status"] for line in lines if line["model"] == "a-diamond")
    assert statuses == {200: 22, 503: 1}, "besides the lines of its steps"


MISFITS: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([step("plus", {"x": "z"}, {"y": "y"})], {}, "nothing gives 'z'"),
    ([step("plus", {"x": "b"}, {"y": "a"}), step("plus", {"x": "a"}, {"y": "b"})], {}, "without a cycle"),
    ([step("plus", {"x": "x"}, {"y": "z"})], {}, "no step gives the output 'y'"),
    ([step("plus", {"w": "x"}, {"y": "y"})], {}, "the model takes x"),
    ([step("plus", {"x": "x"}, {"w": "y"})], {}, "has no output 'w'"),
    ([step("plus", {"x": "x"}, {"y": "x"})], {}, "'x' is given twice"),
    ([step("plus", {"x": "x"}, {"y": "y"})], {"outputs": X}, "both an input and an output"),
    ([step("absent", {"x": "x"}, {"y": "y"})], {}, "a step needs model 'absent'"),
    ([step("plus", {"x": "x"}, {"y": "y"}, 7)], {}, "has no version '7'"),
    (DIAMOND, {"max_batch_size": 9}, "max_batch_size is 9"),
    (DIAMOND, {"max_batch_size": 0}, "max_batch_size is 0"),
    (DIAMOND, {"inputs": {"x": ("FP64", [2])}}, "they must agree"),
    (DIAMOND, {"outputs": {"y": ("FP32", [3])}}, "they must agree"),
    ([step("other", {"x": "x"}, {"y": "y"})], {}, "is an ensemble"),
]


async def test_what_does_not_fit_is_refused_at_load(root: Path) -> None:
    write_ensemble(root, "other", DIAMOND)
    for number, (steps, config, _) in enumerate(MISFITS):
        write_ensemble(root, f"some-{number}", steps, **config)
    registry = Registry(root, "cpu", kinds=KINDS)
    await registry.load_all()
    assert registry.find("plus").version == "1"
    for number, (_, _, message) in enumerate(MISFITS):
        assert message in registry.models[f"some-{number}"].faults["1"]
    with pytest.raises(LoadError, match="some-0 version 1"):
        await registry.load("some-0")
    await registry.close()


async def test_steps_of_another_server(tmp_path: Path) -> None:
    far, near = tmp_path / "far", tmp_path / "near"
    write_picky(far)
    text = {"x": ("BYTES", [-1])}, {"y": ("BYTES", [-1])}
    write_model(far, "echo", "class Model:\n    def __call__(self, x): return x", *text)
    write_model(far, "other", PLUS, {"x": ("FP32", [2])}, {"y": ("FP32", [2])})
    one = {"x": ("FP32", [1])}, {"y": ("FP32", [1])}
    write_model(near, "plus", PLUS, *one)
    with ModelServerProcess(far) as other:
        other.wait_ready()

        def remote(model: str, version: int = -1, **tensors: str) -> dict[str, Any]:
            inputs, outputs = {"x": tensors["x"]}, {"y": tensors["y"]}
            return {**step(model, inputs, outputs, version), "url": other.url}

        chain = [remote("picky", 1, x="x", y="doubled"), step("plus", {"x": "doubled"}, {"y": "y"})]
        write_ensemble(near, "chain", chain, inputs=one[0], outputs=one[1])
        write_ensemble(near, "text", [remote("echo", x="x", y="y")], inputs=text[0], outputs=text[1])
        write_ensemble(near, "absent", [remote("none", x="x", y="y")], inputs=one[0], outputs=one[1])
        write_ensemble(near, "wide", [remote("other", x="x", y="y")], inputs=one[0], outputs=one[1])
        registry = Registry(near, "cpu", kinds=KINDS)
        await registry.load_all()
        assert "step 'none' at http" in registry.models["absent"].faults["1"]
        assert "they must agree" in registry.models["wide"].faults["1"]

        async def run(name: str, *values: Any) -> np.ndarray:
            served = registry.find(name)
            array = np.array([values], object if name == "text" else "<f4")
            entry = FutureEntry((array,), 1, ((len(values),),), 0)
            served.submit(entry)
            return (await entry.future)[0]

        assert (await run("chain", 2.0)).tolist() == [[5.0]]
        assert (await run("text", b"a", b"\xff" * 5)).tolist() == [[b"a", b"\xff" * 5]]
        with pytest.raises(InvalidInput, match="x has a NaN; send numbers"):
            await run("chain", float("nan"))
        with pytest.raises(Unavailable, match=r"step 'picky' at http.*RuntimeError"):
            await run("chain", -1.0)
        other.kill()
        with pytest.raises(Unavailable, match="ConnectError"):
            await run("chain", 2.0)
        await registry.close()


async def test_errors_and_leaving_reach_the_steps(tmp_path: Path) -> None:
    one = {"x": ("FP32", [1])}, {"y": ("FP32", [1])}
    write_picky(tmp_path)
    write_ensemble(tmp_path, "chain", [step("picky", {"x": "x"}, {"y": "y"})], inputs=one[0], outputs=one[1])
    write_model(
        tmp_path, "sleeper", SLEEPER, {"seconds": ("FP32", [1])}, {"slept": ("FP32", [1])}, max_batch_size=1
    )
    sleeping = [step("sleeper", {"seconds": "x"}, {"slept": "y"})]
    write_ensemble(tmp_path, "slow", sleeping, inputs=one[0], outputs=one[1], max_batch_size=1)
    with ModelServerProcess(tmp_path) as server:
        server.wait_ready()
        async with httpx.AsyncClient(base_url=server.url) as client:

            def body(value: float) -> dict[str, Any]:
                return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}]}

            assert (await client.post("/v2/models/chain/infer", json=body(2))).json()["outputs"][0][
                "data"
            ] == [4]
            assert (await client.post("/v2/models/chain/infer", json=body(-1))).status_code == 500
            first = asyncio.create_task(client.post("/v2/models/slow/infer", json=body(0.8)))
            await asyncio.sleep(0.2)
            for _ in range(3):
                with pytest.raises(httpx.TimeoutException):
                    await client.post("/v2/models/slow/infer", json=body(300), timeout=0.1)
            assert (await client.post("/v2/models/slow/infer", json=body(0), timeout=60)).status_code == 200
            assert (await first).status_code == 200


class Liar(BaseHTTPRequestHandler):
    """Announces an output ``y`` FP32 [-1, ``width``], and gives ``outputs``, with ``data`` behind them.

    Without ``data``, a byte comes each tenth of a second, without end.
    """

    outputs: Any = None
    data: bytes | None = b""
    width = 1
    rows = 0
    status = 200

    def do_GET(self) -> None:
        tensor = {"datatype": "FP32", "shape": [-1, self.width]}
        metadata = {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]}
        is_config = self.path.endswith("/config")
        self._send(json.dumps({"max_batch_size": self.rows} if is_config else metadata).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._send(json.dumps({"outputs": self.outputs}).encode(), self.data, self.status)

    def _send(self, head: bytes, data: bytes | None = b"", status: int = 200) -> None:
        self.send_response(status)
        if data is not None:
            self.send_header("content-length", str(len(head + data)))
        self.send_header("inference-header-content-length", str(len(head)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(head + (data or b""))
            while data is None:
                self.wfile.write(b"x")
                time.sleep(0.1)

    def log_message(self, *_: object) -> None: ...


def output(name: str = "y", datatype: str = "FP32", shape: Any = (1, 1), size: Any = 4) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


async def test_another_server_that_lies_fails_the_request_and_no_step_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"x": ("FP32", [1])}, {"y": ("FP32", [1])}
    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as liar:
        threading.Thread(target=liar.serve_forever, daemon=True).start()
        first = {**step("lies", {"x": "x"}, {"y": "z"}), "url": f"http://127.0.0.1:{liar.server_port}"}
        write_model(tmp_path, "plus", PLUS, *one)
        write_ensemble(
            tmp_path, "chain", [first, step("plus", {"x": "z"}, {"y": "y"})], inputs=one[0], outputs=one[1]
        )
        registry = Registry(tmp_path, "cpu", kinds=KINDS)
        await registry.load_all()
        for outputs, data, message in (
            ([output(datatype="INT32")], bytes(4), "as int32"),
            ([output(shape=[2, 1], size=8)], bytes(8), r"\[2, 1\]"),
            ([output(shape=[1], size=4)], bytes(4), r"\[1\]"),
            ([output("other")], bytes(4), "not understood"),
            ([output(size=-8)], bytes(4), "not understood"),
            ([output(shape=["x"])], bytes(4), "not understood"),
            ([], b"", "not understood"),
            ({"y": 1}, b"", "not understood"),
            ("no", b"", "not understood"),
        ):
            Liar.outputs, Liar.data = outputs, data
            entry = FutureEntry((np.zeros((1, 1), "<f4"),), 1, ((1,),), 0)
            registry.find("chain").submit(entry)
            with pytest.raises(ModelFailed, match=message):
                await asyncio.wait_for(entry.future, 60)
        monkeypatch.setattr(ensemble_steps, "MAX_RESPONSE_BYTES", 1 << 20)
        monkeypatch.setattr(ensemble_steps, "STEP_TIMEOUT_S", 1.0)
        Liar.outputs = [output()]
        for given, error, message in (
            (bytes(2 << 20), ModelFailed, "more than 1048576 bytes"),
            (None, Unavailable, "Timeout"),
        ):
            Liar.data = given
            entry = FutureEntry((np.zeros((1, 1), "<f4"),), 1, ((1,),), 0)
            registry.find("chain").submit(entry)
            with pytest.raises(error, match=message):
                await asyncio.wait_for(entry.future, 60)
        assert registry.find("plus").stats.executions == 0
        assert registry.find("chain").stats.fail.count == 11
        await registry.close()
        liar.shutdown()


async def test_an_ensemble_follows_the_server_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry_module, "RECHECK_INTERVAL_S", 0.05)
    monkeypatch.setattr(ensemble_steps, "RECHECK_INTERVAL_S", 0.0)
    one = {"x": ("FP32", [1])}, {"y": ("FP32", [1])}

    class Remote(Liar):
        outputs = (output(),)
        data = bytes(4)

    with ThreadingHTTPServer(("127.0.0.1", 0), Remote, bind_and_activate=False) as remote:
        remote.server_bind()
        first = {**step("far", {"x": "x"}, {"y": "y"}), "url": f"http://127.0.0.1:{remote.server_address[1]}"}
        write_ensemble(tmp_path, "chain", [first], inputs=one[0], outputs=one[1], max_batch_size=4)
        registry = Registry(tmp_path, "cpu", kinds=KINDS)
        await registry.load_all()

        async def refused(reason: str) -> None:
            async with asyncio.timeout(60):
                while not any(reason in fault for fault in registry.faults):
                    await asyncio.sleep(0.01)
            (row,) = json.loads(Pages(registry, control=False).index(b"").body)
            assert row["state"] == "UNAVAILABLE"

        async def served() -> None:
            async with asyncio.timeout(60):
                while not registry.ready("chain"):
                    await asyncio.sleep(0.01)
            await run()

        async def run() -> None:
            entry = FutureEntry((np.zeros((1, 1), "<f4"),), 1, ((1,),), 0)
            registry.find("chain").submit(entry)
            await asyncio.wait_for(entry.future, 60)

        await refused("not reached (ConnectError); this is checked again every")
        await asyncio.sleep(0.3)
        assert caplog.text.count("not reached") == 1, "the log is not filled with what it said"
        remote.server_activate()
        threading.Thread(target=remote.serve_forever, daemon=True).start()
        await served()

        Remote.status = 400
        with pytest.raises(InvalidInput):
            await run()
        assert registry.ready("chain"), "it is the same model; the client's values were wrong"
        Remote.width = 2
        with pytest.raises(Unavailable, match="has other inputs, outputs or max_batch_size now"):
            await run()
        await refused("they must agree")
        Remote.status, Remote.width = 200, 1
        await served()

        Remote.status, Remote.rows = 400, 3
        with pytest.raises(Unavailable, match="max_batch_size"):
            await run()
        await refused("max_batch_size is 4, and that of step 'far' 3")
        Remote.status, Remote.rows = 200, 4
        await served()

        await registry.unload("chain")
        await asyncio.sleep(0.3)
        assert not registry.ready("chain"), "what was unloaded is not loaded again"
        await registry.close()
        remote.shutdown()
