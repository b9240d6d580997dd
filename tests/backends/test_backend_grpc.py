"""gRPC with Triton's own client, unchanged, against the real server; the same results as over HTTP."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from backends.datatypes import DATATYPES
from backends.rpc.messages import MESSAGES
from backends.rpc.server import DATA_TYPES
from backends.rpc.sizes import RAW_INPUT_CONTENTS, bytes_besides
from backends.wire.request import MAX_JSON_BYTES
from tests.backends.repositories import HELD, Gate, write_echo, write_picky, write_sleeper
from tests.support.processes import ModelServerProcess


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate") / "closed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("grpc")
    for datatype in DATATYPES:
        write_echo(root, datatype)
    write_picky(root)
    write_sleeper(root, gate, max_batch_size=1)
    with ModelServerProcess(root, "--grpc-port", "0", "--allow-load") as server:
        server.wait_ready()
        yield server.announced(r"gRPC on (\S+)")
        assert server.stop() == 0, server.log


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as connected:
        yield connected


def tensor(values: np.ndarray, datatype: str, name: str = "x") -> triton.InferInput:
    one = triton.InferInput(name, list(values.shape), datatype)
    one.set_data_from_numpy(values)
    return one


def values(datatype: str) -> np.ndarray:
    if datatype == "BOOL":
        return np.array([[True, False], [False, True]])
    if datatype == "BYTES":
        return np.array([[b"", "zwölf".encode()], [b"x" * 1000, b"\xff"]], dtype=object)
    if datatype == "BF16":
        return np.array([[1.5, -2.0], [3.0e38, 0.0]], dtype=ml_dtypes.bfloat16)
    dtype: Any = DATATYPES[datatype].dtype
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([[info.min, info.max], [0, 1]], dtype=dtype)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype(client: triton.InferenceServerClient, datatype: str) -> None:
    rows = values(datatype)
    got = client.infer(f"echo_{datatype}", [tensor(rows, datatype)], request_id="q")
    assert got.get_response().id == "q"
    output = got.as_numpy("y")
    if datatype == "BF16":
        np.testing.assert_array_equal(output, rows.astype(np.float32))
    else:
        np.testing.assert_array_equal(output, rows)


@pytest.mark.parametrize(
    ("datatype", "field", "given"),
    [
        ("INT8", "int_contents", [-128, 127]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("INT64", "int64_contents", [-(2**63), 1]),
        ("UINT64", "uint64_contents", [2**64 - 1, 0]),
        ("FP32", "fp32_contents", [1.5, float("inf")]),
        ("FP64", "fp64_contents", [0.1, -0.0]),
        ("BOOL", "bool_contents", [True, False]),
        ("BYTES", "bytes_contents", [b"ab", b""]),
    ],
)
def test_typed_contents(address: str, datatype: str, field: str, given: list[Any]) -> None:
    request = service_pb2.ModelInferRequest(model_name=f"echo_{datatype}")
    one = request.inputs.add(name="x", datatype=datatype, shape=[1, 2])
    getattr(one.contents, field).extend(given)
    answer = call(address, request)
    result = triton.InferResult(answer).as_numpy("y")
    assert result.ravel().tolist() == given


def call(address: str, request: Any) -> Any:
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        return infer(request, timeout=30)


def test_the_other_calls(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo_FP32")
    assert not client.is_model_ready("absent")
    assert client.get_server_metadata().name == "turnout"
    metadata = client.get_model_metadata("echo_FP32")
    assert list(metadata.inputs[0].shape) == [-1, 2]
    assert (metadata.inputs[0].datatype, list(metadata.versions)) == ("FP32", ["1"])
    client.infer("echo_FP32", [tensor(np.zeros((3, 2), "<f4"), "FP32")])
    (stats,) = client.get_inference_statistics("echo_FP32", "1").model_stats
    assert stats.inference_count >= 3
    assert stats.inference_stats.success.ns > 0
    states = {model.name: model.state for model in client.get_model_repository_index().models}
    assert states["picky"] == "READY"
    client.unload_model("picky")
    assert not client.is_model_ready("picky")
    client.load_model("picky")
    assert client.is_model_ready("picky")


def test_a_models_configuration_is_tritons(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("echo_BF16").config
    assert (config.name, config.platform, config.max_batch_size) == ("echo_BF16", "pytorch_module", 8)
    (input_,), (output,) = config.input, config.output
    assert (input_.name, input_.data_type, list(input_.dims)) == ("x", model_config_pb2.TYPE_BF16, [2])
    assert (output.name, output.data_type, list(output.dims)) == ("y", model_config_pb2.TYPE_BF16, [2])
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, 0)]
    numbers = {name.removeprefix("TYPE_"): n for name, n in model_config_pb2.DataType.items() if n}
    numbers["BYTES"] = numbers.pop("STRING")
    assert numbers == DATA_TYPES


SERVING, NOT_SERVING, SERVICE_UNKNOWN = (b"\x08%c" % status for status in (1, 2, 3))
"""The responses of gRPC's health protocol, as they are on the wire."""


def health(channel: grpc.Channel, service: str) -> bytes:
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    asked = service.encode()
    response: bytes = check(b"\x0a%c%b" % (len(asked), asked), timeout=30)
    return response


def test_health_as_a_grpc_probe_asks(address: str, client: triton.InferenceServerClient) -> None:
    with grpc.insecure_channel(address) as channel:
        assert health(channel, "") == SERVING
        assert health(channel, "inference.GRPCInferenceService") == SERVING
        assert health(channel, "picky") == SERVING
        with pytest.raises(grpc.RpcError, match="no service or model 'absent'") as caught:
            health(channel, "absent")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watched = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0a\x05picky", timeout=60)
        assert next(watched) == SERVING
        client.unload_model("picky")
        assert next(watched) == NOT_SERVING
        assert health(channel, "picky") == NOT_SERVING
        client.load_model("picky")
        assert next(watched) == SERVING
        watched.cancel()
        unknown = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0a\x06absent", timeout=60)
        assert next(unknown) == SERVICE_UNKNOWN
        unknown.cancel()


@pytest.mark.parametrize(
    ("model", "inputs", "code", "message"),
    [
        ("absent", [tensor(np.zeros((1, 2), "<f4"), "FP32")], "NOT_FOUND", "no model 'absent'"),
        ("echo_FP32", [tensor(np.zeros((1, 3), "<f4"), "FP32")], "INVALID_ARGUMENT", "came with shape"),
        ("echo_FP32", [tensor(np.zeros((1, 2), "<f8"), "FP64")], "INVALID_ARGUMENT", "send FP32"),
        ("echo_FP32", [], "INVALID_ARGUMENT", "inputs is not a list"),
        ("picky", [tensor(np.array([[np.nan]], "<f4"), "FP32")], "INVALID_ARGUMENT", "x has a NaN"),
        ("picky", [tensor(np.array([[-1]], "<f4"), "FP32")], "INTERNAL", "RuntimeError"),
    ],
)
def test_errors(
    client: triton.InferenceServerClient, model: str, inputs: list[Any], code: str, message: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs)
    assert caught.value.status() == f"StatusCode.{code}"
    assert message in caught.value.message()
    assert "secret" not in caught.value.message()


def test_contents_that_do_not_fit(address: str) -> None:
    request = service_pb2.ModelInferRequest(model_name="echo_INT8")
    request.inputs.add(name="x", datatype="INT8", shape=[1, 2]).contents.int_contents.extend([0, 128])
    with pytest.raises(grpc.RpcError, match="outside the range of INT8"):
        call(address, request)
    request.raw_input_contents.append(b"\0\0")
    with pytest.raises(grpc.RpcError, match="both there"):
        call(address, request)


async def test_a_timeout_and_a_cancelled_call(client: triton.InferenceServerClient, gate: Gate) -> None:
    held, long, none = (
        tensor(np.array([[number]], "<f4"), "FP32", "seconds") for number in (HELD, 300.0, 0.0)
    )
    running: queue.Queue[Any] = queue.Queue()
    client.async_infer("sleeper", [held], lambda result, error: running.put((result, error)))
    await gate.begun()
    with pytest.raises(InferenceServerException, match="waited longer than its timeout"):
        client.infer("sleeper", [held], timeout=50_000)
    with pytest.raises(InferenceServerException, match="Deadline"):
        client.infer("sleeper", [long], client_timeout=0.1)
    with pytest.raises(InferenceServerException, match="waited longer than its timeout"):
        client.infer("sleeper", [none], timeout=50_000)  # the server hears of the deadline before
    gate.open()
    assert running.get(timeout=60)[1] is None
    done = client.infer("sleeper", [none], client_timeout=60)
    assert done.as_numpy("slept").item() == 0, "the cancelled one left the queue"


def test_a_stream_answers_in_order_and_survives_errors(client: triton.InferenceServerClient) -> None:
    results: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: results.put((result, error)))
    for value in (1, -1, 3):
        client.async_stream_infer("picky", [tensor(np.array([[value]], "<f4"), "FP32")])
    first, second, third = (results.get(timeout=60) for _ in range(3))
    client.stop_stream()
    assert first[0].as_numpy("y").item() == 2
    assert "RuntimeError" in str(second[1])
    assert third[0].as_numpy("y").item() == 6


def test_field_numbers_are_tritons() -> None:
    """The table is checked against the descriptors that Triton's client was generated with."""
    theirs = {
        **service_pb2.DESCRIPTOR.message_types_by_name,
        **model_config_pb2.DESCRIPTOR.message_types_by_name,
    }
    for message in list(theirs.values()):
        theirs.update(message.nested_types_by_name)
    theirs["EnsembleStep"] = theirs["Step"]
    enum, int32 = model_config_pb2.ModelInput.DESCRIPTOR.fields_by_name["data_type"].type, 5
    for name, ours in MESSAGES.items():
        if name in ("ParameterEntry", "NameEntry"):
            continue
        for field in ours.DESCRIPTOR.fields:
            other = theirs[name].fields_by_name[field.name]
            assert (field.number, field.type) == (
                other.number,
                int32 if other.type == enum else other.type,
            ), f"{name}.{field.name}"
            assert field.is_repeated == other.is_repeated, f"{name}.{field.name}"


def infer_request(**more: Any) -> Any:
    return MESSAGES["ModelInferRequest"](model_name="echo_INT32", **more)


def test_much_besides_raw_contents_is_refused_unparsed(address: str) -> None:
    """60 MiB of typed contents held the event loop for seconds, and with it all other clients."""
    typed = infer_request()
    tensor_of = typed.inputs.add(name="x", datatype="INT32", shape=[4, 2])
    tensor_of.contents.int_contents.extend([1] * (MAX_JSON_BYTES + 1))
    raw = infer_request(raw_input_contents=[bytes(MAX_JSON_BYTES), bytes(MAX_JSON_BYTES)])
    empty = infer_request(raw_input_contents=[b""] * MAX_JSON_BYTES)
    names = infer_request()
    for number in range(5):
        names.parameters.add(key=f"{number}" * 1_000_000).value.bool_param = True
    with grpc.insecure_channel(address) as channel:
        for name, request, code, message in (
            ("ModelInfer", typed, grpc.StatusCode.RESOURCE_EXHAUSTED, "send tensors there"),
            ("ModelInfer", empty, grpc.StatusCode.RESOURCE_EXHAUSTED, "more than 10000 fields"),
            ("ModelInfer", names, grpc.StatusCode.RESOURCE_EXHAUSTED, "send tensors there"),
            ("ModelInfer", raw, grpc.StatusCode.INVALID_ARGUMENT, "2 raw_input_contents for 0 inputs"),
            ("ModelMetadata", typed, grpc.StatusCode.RESOURCE_EXHAUSTED, "more than"),
        ):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
            with pytest.raises(grpc.RpcError, match=message) as caught:
                call(request.SerializeToString(), timeout=60)
            assert caught.value.code() is code
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        (response,) = stream(iter([typed.SerializeToString()]), timeout=60)
        assert b"send tensors there" in response


@given(st.lists(st.binary(max_size=300)), st.lists(st.text(max_size=9)), st.binary(max_size=40))
def test_bytes_besides_the_raw_contents(raw: list[bytes], names: list[str], junk: bytes) -> None:
    request = infer_request(raw_input_contents=raw, id="id")
    for name in names:
        request.outputs.add(name=name)
    data = request.SerializeToString()
    assert bytes_besides(RAW_INPUT_CONTENTS, data) == len(data) - sum(map(len, raw))
    assert bytes_besides(RAW_INPUT_CONTENTS, data[: len(junk)] + junk) >= 0


def test_many_fields_are_not_walked() -> None:
    many = b"\x3a\x00" * MAX_JSON_BYTES
    assert bytes_besides(RAW_INPUT_CONTENTS, many) == len(many)


@pytest.mark.parametrize("junk", [b"\xff" * 10_000_000, b"\x3a" + b"\xff" * 9 + b"\x01", b"\x0b"])
def test_what_is_no_message_is_not_walked_for_long(junk: bytes) -> None:
    assert bytes_besides(RAW_INPUT_CONTENTS, junk) <= 16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("get_system_shared_memory_status", "shared memory is not served"),
        ("unregister_cuda_shared_memory", "shared memory is not served"),
        ("get_trace_settings", "settings of traces and logs"),
        ("get_log_settings", "settings of traces and logs"),
    ],
)
def test_what_is_not_served_is_said(client: triton.InferenceServerClient, call: str, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        getattr(client, call)()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
