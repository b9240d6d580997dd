"""The bundled model server and a real Triton: the same requests, the same responses but for a written list.

Skipped if Triton is not installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from backends.datatypes import DATATYPES
from tests.backends.repositories import write_model
from tests.compat.triton_corpus import Call, corpus
from tests.compat.triton_differences import DIFFERENCES
from tests.compat.triton_server import Triton
from tests.support.processes import ModelServerProcess

TRITON_ECHO = """
import triton_python_backend_utils as triton

OUTPUTS = {"x": "y", "a": "c", "b": "d"}

def inputs(request):
    return sorted(request.inputs(), key=lambda one: one.name())

class TritonPythonModel:
    def execute(self, requests):
        return [
            triton.InferenceResponse(
                [triton.Tensor(OUTPUTS[one.name()], one.as_numpy()) for one in inputs(request)]
            )
            for request in requests
        ]
"""
PAIR = """
class Model:
    def __call__(self, a, b):
        return a, b
"""
ECHO = """
class Model:
    def __call__(self, x):
        return x
"""
Specs = dict[str, tuple[str, list[int]]]
MODELS: dict[str, tuple[Specs, Specs, str]] = {
    f"echo_{datatype}": ({"x": (datatype, [2])}, {"y": (datatype, [2])}, ECHO)
    for datatype in DATATYPES
    if datatype != "BF16"  # Triton's Python backend has no such tensors
}
MODELS["pair"] = (
    {"a": ("FP32", [2]), "b": ("INT64", [1])},
    {"c": ("FP32", [2]), "d": ("INT64", [1])},
    PAIR,
)


def _pbtxt(name: str, inputs: Specs, outputs: Specs) -> str:
    def tensors(kind: str, specs: Specs) -> str:
        return "".join(
            f'{kind} {{ name: "{one}" data_type: TYPE_{datatype.replace("BYTES", "STRING")} dims: {dims} }}\n'
            for one, (datatype, dims) in specs.items()
        )

    head = f'name: "{name}"\nbackend: "python"\nmax_batch_size: 8\n'
    return head + tensors("input", inputs) + tensors("output", outputs)


@pytest.fixture(scope="module")
def tritonserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    models = {
        name: (_pbtxt(name, inputs, outputs), TRITON_ECHO) for name, (inputs, outputs, _) in MODELS.items()
    }
    with Triton(tmp_path_factory.mktemp("triton"), models) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def triton(tritonserver: Triton) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=tritonserver.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("ours")
    for name, (inputs, outputs, code) in MODELS.items():
        write_model(root, name, code, inputs, outputs)
    with ModelServerProcess(root) as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url, timeout=60) as client:
            yield client


def observed(client: httpx.Client, call: Call) -> Any:
    """What a client sees, without the wording of errors and what may differ between any two servers."""
    response = client.request(call.method, call.path, content=call.body, headers=call.headers)
    length = response.headers.get("inference-header-content-length")
    body = response.content
    tail = b""
    if length is not None:
        body, tail = body[: int(length)], body[int(length) :]
    try:
        document: Any = httpx.Response(200, content=body).json() if body else None
    except ValueError:
        document = body
    if response.status_code >= 400:
        return response.status_code, "error" if isinstance(
            document, dict
        ) and "error" in document else document
    if isinstance(document, dict):
        document.pop("platform", None)
    if isinstance(document, list):
        document = sorted(document, key=str)
    return response.status_code, document, tail


def test_the_same_requests_get_the_same_responses(triton: httpx.Client, ours: httpx.Client) -> None:
    found = {}
    for call in corpus():
        theirs, mine = observed(triton, call), observed(ours, call)
        if theirs != mine and (theirs[0], mine[0]) != (500, 400):  # see CLIENT_ERROR
            found[call.name] = (theirs, mine)
    unexplained = {name: pair for name, pair in found.items() if name not in DIFFERENCES}
    assert not unexplained, "\n".join(
        f"{name}\n  Triton {a}\n  ours   {b}" for name, (a, b) in unexplained.items()
    )
    assert found.keys() == DIFFERENCES.keys(), "a difference that is no more: remove it from the list"


def test_no_valid_request_of_triton_crashes_the_server(ours: httpx.Client) -> None:
    """And no invalid one: every error is the client's."""
    statuses = {call.name: observed(ours, call)[0] for call in corpus()}
    assert {name: status for name, status in statuses.items() if status >= 500} == {}
    assert len(statuses) >= 167


def keys_of(document: Any, place: str = "") -> set[str]:
    """The paths of all keys; those of a list's first item."""
    if isinstance(document, list):
        return keys_of(document[0], place + "[]") if document else set()
    if not isinstance(document, dict):
        return set()
    return {f"{place}.{key}" for key in document}.union(
        *(keys_of(value, f"{place}.{key}") for key, value in document.items())
    )


def test_statistics_have_the_fields_that_perf_analyzer_reads(
    triton: httpx.Client, ours: httpx.Client
) -> None:
    call = next(call for call in corpus() if call.name == "json FP32")
    both = []
    for client in (triton, ours):
        assert client.post(call.path, content=call.body).status_code == 200
        both.append(keys_of(client.get("/v2/models/echo_FP32/stats").json()))
    assert both[0] - both[1] == set()


METRICS_NOT_SERVED = {
    "nv_pinned_memory_pool_total_bytes": "memory is pinned per batch slot, without a pool",
    "nv_pinned_memory_pool_used_bytes": "memory is pinned per batch slot, without a pool",
    "nv_cpu_utilization": "of the machine rather than the server: use node_exporter",
    "nv_cpu_memory_total_bytes": "of the machine rather than the server: use node_exporter",
    "nv_cpu_memory_used_bytes": "of the machine rather than the server: use node_exporter",
}


def test_metrics_have_tritons_names(tritonserver: Triton, ours: httpx.Client) -> None:
    def names(text: str) -> dict[str, set[str]]:
        """The names, each with its labels."""
        lines = [line for line in text.splitlines() if line.startswith("nv_")]
        return {re.split("[{ ]", line)[0]: set(re.findall(r'(\w+)="', line)) for line in lines}

    theirs, own = names(httpx.get(tritonserver.metrics_url).text), names(ours.get("/metrics").text)
    missing = theirs.keys() - own.keys()
    assert {name: own[name] for name in own.keys() & theirs.keys()} == {
        name: theirs[name] for name in own.keys() & theirs.keys()
    }
    assert missing == METRICS_NOT_SERVED.keys()
