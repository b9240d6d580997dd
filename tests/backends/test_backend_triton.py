"""Triton's own Python client, unchanged, against the real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from backends.datatypes import DATATYPES
from backends.reference.digits import held_out
from tests.backends.repositories import write_echo
from tests.support.processes import ModelServerProcess

PLAIN = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")


@pytest.fixture(scope="module")
def echoes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServerProcess]:
    root: Path = tmp_path_factory.mktemp("echoes")
    for datatype in DATATYPES:
        write_echo(root, datatype)
    with ModelServerProcess(root) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def echo(echoes: ModelServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(echoes.address) as client:
        yield client


@pytest.fixture
def digits(server: ModelServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as client:
        yield client


def values(datatype: str) -> np.ndarray:
    """Two rows with the extremes of the datatype."""
    if datatype == "BOOL":
        return np.array([[True, False], [False, True]])
    if datatype == "BYTES":
        return np.array([[b"", "zwölf".encode()], [b"x" * 1000, b"a\nb"]], dtype=object)
    if datatype == "BF16":
        return np.array([[1.5, -2.0], [3.0e38, 0.0]], dtype=ml_dtypes.bfloat16)
    dtype: Any = DATATYPES[datatype].dtype
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([[info.min, info.max], [0, 1]], dtype=dtype)


def ask(client: triton.InferenceServerClient, datatype: str, send: bool, get: bool) -> np.ndarray:
    rows = values(datatype)
    tensor = triton.InferInput("x", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows, binary_data=send)
    wanted = triton.InferRequestedOutput("y", binary_data=get)
    answer = client.infer(f"echo_{datatype}", [tensor], outputs=[wanted]).as_numpy("y")
    assert isinstance(answer, np.ndarray)
    return answer


@pytest.mark.parametrize("get", [True, False], ids=["binary-out", "json-out"])
@pytest.mark.parametrize("datatype", list(DATATYPES))
def test_every_datatype_as_binary(echo: triton.InferenceServerClient, datatype: str, get: bool) -> None:
    answer = ask(echo, datatype, True, get)
    if datatype == "BYTES" and not get:
        assert [[item.encode() for item in row] for row in answer] == values(datatype).tolist()
    else:
        np.testing.assert_array_equal(answer, values(datatype))


@pytest.mark.parametrize("datatype", [*PLAIN, "BOOL", "BYTES"])
def test_every_datatype_as_json(echo: triton.InferenceServerClient, datatype: str) -> None:
    np.testing.assert_array_equal(ask(echo, datatype, False, True), values(datatype))


def test_no_outputs_named_gives_all_as_binary(digits: triton.InferenceServerClient) -> None:
    data = held_out()
    tensor = triton.InferInput("pixels", [50, 64], "FP32")
    tensor.set_data_from_numpy(data.pixels[:50])
    answer = digits.infer("digits", [tensor], model_version="2", request_id="seven")
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_version"] == "2"
    assert (answer.as_numpy("label") == data.labels[:50]).mean() > 0.9
    scores = answer.as_numpy("scores")
    assert scores.dtype == np.float32
    assert scores.shape == (50, 10)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(digits: triton.InferenceServerClient, algorithm: str) -> None:
    data = held_out()
    tensor = triton.InferInput("pixels", [100, 64], "FP32")
    tensor.set_data_from_numpy(data.pixels[:100])
    plain = digits.infer("digits", [tensor], model_version="1")
    packed = digits.infer(
        "digits",
        [tensor],
        model_version="1",
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_allclose(packed.as_numpy("scores"), plain.as_numpy("scores"), rtol=1e-5)


def test_concurrent_requests_get_their_own_answers(
    digits: triton.InferenceServerClient, server: ModelServerProcess
) -> None:
    data = held_out()
    with triton.InferenceServerClient(server.address, concurrency=16) as client:
        tensors = []
        for row in range(200):
            tensors.append(triton.InferInput("pixels", [1, 64], "FP32"))
            tensors[-1].set_data_from_numpy(data.pixels[row : row + 1])
        waiting = [client.async_infer("digits", [tensor], model_version="2") for tensor in tensors]
        labels = [int(one.get_result().as_numpy("label")[0]) for one in waiting]
    whole = triton.InferInput("pixels", [100, 64], "FP32")
    expected = []
    for start in (0, 100):
        whole.set_data_from_numpy(data.pixels[start : start + 100])
        expected += digits.infer("digits", [whole], model_version="2").as_numpy("label").tolist()
    assert labels == expected


def test_the_other_calls(digits: triton.InferenceServerClient) -> None:
    assert digits.is_server_live()
    assert digits.is_server_ready()
    assert digits.is_model_ready("digits", "3")
    assert not digits.is_model_ready("digits", "4")
    assert "binary_tensor_data" in digits.get_server_metadata()["extensions"]
    assert digits.get_model_metadata("digits")["versions"] == ["1", "2", "3"]
    config = digits.get_model_config("digits", "1")
    assert (config["max_batch_size"], config["input"][0]["data_type"]) == (128, "TYPE_FP32")
    assert [row["state"] for row in digits.get_model_repository_index()] == ["READY"] * 3
    stats = digits.get_inference_statistics("digits", "1")["model_stats"]
    assert [row["version"] for row in stats] == ["1"]
    assert len(digits.get_inference_statistics()["model_stats"]) == 3


def test_errors_reach_the_client_as_messages(digits: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("pixels", [1, 63], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 63), dtype=np.float32))
    with pytest.raises(InferenceServerException, match=r"shape \[1, 63\]; send \[-1, 64\]") as caught:
        digits.infer("digits", [tensor])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="no model 'absent'"):
        digits.infer("absent", [tensor])
    with pytest.raises(InferenceServerException, match="--allow-load"):
        digits.unload_model("digits")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("get_system_shared_memory_status", "shared memory is not served"),
        ("unregister_cuda_shared_memory", "shared memory is not served"),
        ("get_trace_settings", "settings of traces and logs"),
        ("get_log_settings", "settings of traces and logs"),
    ],
)
def test_what_is_not_served_is_said(digits: triton.InferenceServerClient, call: str, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        getattr(digits, call)()
    assert caught.value.status() == "400"
