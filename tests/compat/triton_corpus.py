"""Requests for Triton and for the bundled model server: valid ones of every kind, and what is wrong with others.

Both serve the model `echo_DATATYPE` for each datatype (input x [-1, 2], output y, up to 8 rows), and `pair`, which
returns its inputs `a` (FP32 [-1, 2]) and `b` (INT64 [-1, 1]) as `c` and `d`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False], "UINT8": [0, 255], "UINT16": [0, 65535], "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1], "INT8": [-128, 127], "INT16": [-32768, 32767], "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1], "FP32": [1.5, -2.25], "FP64": [1e300, -2.5], "BYTES": ["a", "zwölf"],
}  # fmt: skip
FORMATS = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h",
    "INT32": "i", "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One HTTP request."""

    name: str
    path: str
    method: str = "POST"
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def corpus() -> list[Call]:
    """All calls; their names are distinct."""
    calls = [*_data(), *_outputs(), *_wrong_tensors(), *_wrong_documents(), *_binary(), *_pairs(), *_pages()]
    assert len({call.name for call in calls}) == len(calls)
    return calls


def tensor(datatype: str = "FP32", **changes: Any) -> dict[str, Any]:
    """Input ``x`` of one row; a change to None removes the key."""
    made = {
        "name": "x",
        "shape": [1, 2],
        "datatype": datatype,
        "data": VALUES.get(datatype, [1, 2]),
        **changes,
    }
    return {key: value for key, value in made.items() if value is not None}


def infer(name: str, document: Any, *, model: str = "echo_FP32", binary: bytes | None = None) -> Call:
    """An inference request; with ``binary`` data behind its JSON."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {} if binary is None else {"inference-header-content-length": str(len(body))}
    return Call(name, f"/v2/models/{model}/infer", body=body + (binary or b""), headers=headers)


def packed(datatype: str, values: list[Any]) -> bytes:
    """The binary form."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in values)
    return struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)


def _data() -> Iterator[Call]:
    for datatype, values in VALUES.items():
        model = f"echo_{datatype}"
        yield infer(f"json {datatype}", {"inputs": [tensor(datatype)]}, model=model)
        nested = tensor(datatype, data=[values, values], shape=[2, 2])
        yield infer(f"json {datatype} nested", {"inputs": [nested]}, model=model)
        flat = tensor(datatype, data=values * 3, shape=[3, 2])
        yield infer(f"json {datatype} three rows", {"inputs": [flat]}, model=model)
        yield infer(
            f"json {datatype} with a string", {"inputs": [tensor(datatype, data=["x", "y"])]}, model=model
        )
        yield infer(
            f"json {datatype} with null", {"inputs": [tensor(datatype, data=[None, None])]}, model=model
        )
        yield infer(
            f"json {datatype} with a fraction", {"inputs": [tensor(datatype, data=[1.5, 2])]}, model=model
        )
        yield infer(
            f"json {datatype} with booleans", {"inputs": [tensor(datatype, data=[True, 1])]}, model=model
        )
    for datatype, beyond in (
        ("UINT8", 256),
        ("INT8", -129),
        ("INT64", 2**63),
        ("UINT64", -1),
        ("FP32", 1e300),
    ):
        document: dict[str, Any] = {"inputs": [tensor(datatype, data=[beyond, 0])]}
        yield infer(f"json {datatype} out of range", document, model=f"echo_{datatype}")
    for datatype in FORMATS | {"BYTES": ""}:
        values = VALUES.get(datatype, [1.0, 2.0])
        raw = packed(datatype, values)
        sized = tensor(datatype, data=None, parameters={"binary_data_size": len(raw)})
        for answer in (True, False):
            document = {"inputs": [sized], "parameters": {"binary_data_output": answer}}
            name = f"binary {datatype}, {'binary' if answer else 'JSON'} response"
            yield infer(name, document, model=f"echo_{datatype}", binary=raw)


def _outputs() -> Iterator[Call]:
    yield infer("an id", {"id": "seven", "inputs": [tensor()]})
    yield infer("an empty id", {"id": "", "inputs": [tensor()]})
    yield infer("an id that is a number", {"id": 7, "inputs": [tensor()]})
    yield infer("an output by name", {"inputs": [tensor()], "outputs": [{"name": "y"}]})
    binary = {"name": "y", "parameters": {"binary_data": True}}
    yield infer("an output in binary form", {"inputs": [tensor()], "outputs": [binary]})
    yield infer("an unknown output", {"inputs": [tensor()], "outputs": [{"name": "z"}]})
    yield infer("an output twice", {"inputs": [tensor()], "outputs": [{"name": "y"}, {"name": "y"}]})
    yield infer("no outputs", {"inputs": [tensor()], "outputs": []})
    yield infer("outputs that are an object", {"inputs": [tensor()], "outputs": {"name": "y"}})
    yield infer("an output without a name", {"inputs": [tensor()], "outputs": [{}]})
    yield infer(
        "a flag that is a string", {"inputs": [tensor()], "parameters": {"binary_data_output": "yes"}}
    )
    classes = {"name": "y", "parameters": {"classification": 2}}
    yield infer("classification", {"inputs": [tensor()], "outputs": [classes]})
    shared = {"name": "y", "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}}
    yield infer("an output in shared memory", {"inputs": [tensor()], "outputs": [shared]})
    parameters_by_name: dict[str, dict[str, Any]] = {
        "a parameter of one's own": {"mine": 1},
        "a parameter that is an object": {"mine": {"a": 1}},
        "a parameter that is null": {"mine": None},
        "a priority": {"priority": 1},
        "a priority that is a string": {"priority": "high"},
        "a timeout": {"timeout": 10_000_000},
        "a timeout that is a string": {"timeout": "soon"},
        "a sequence": {"sequence_id": 3, "sequence_start": True},
    }
    for name, parameters in parameters_by_name.items():
        yield infer(name, {"inputs": [tensor()], "parameters": parameters})


def _wrong_tensors() -> Iterator[Call]:
    wrong: dict[str, dict[str, Any]] = {
        "no name": {"name": None},
        "an unknown name": {"name": "z"},
        "no shape": {"shape": None},
        "no datatype": {"datatype": None},
        "no data": {"data": None},
        "another datatype": {"datatype": "FP64"},
        "an unknown datatype": {"datatype": "FLOAT"},
        "too few values": {"data": [1]},
        "too many values": {"data": [1, 2, 3]},
        "no values": {"data": []},
        "another width": {"shape": [1, 3], "data": [1, 2, 3]},
        "no batch axis": {"shape": [2]},
        "one axis too many": {"shape": [1, 1, 2]},
        "a negative size": {"shape": [-1, 2]},
        "a size that is a fraction": {"shape": [1.0, 2]},
        "a shape that is a number": {"shape": 2},
        "more rows than the model takes": {"shape": [9, 2], "data": [1] * 18},
        "no rows": {"shape": [0, 2], "data": []},
        "data that is a number": {"data": 1},
        "data that is an object": {"data": {"a": 1}},
        "ragged data": {"data": [[1], [2, 3]], "shape": [2, 2]},
        "data nested elsewise": {"data": [[1], [2]]},
        "shared memory": {
            "data": None,
            "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8},
        },
        "parameters that are a list": {"parameters": []},
        "a key of one's own": {"mine": 1},
    }
    for name, changes in wrong.items():
        yield infer(f"a tensor with {name}", {"inputs": [tensor(**changes)]})


def _wrong_documents() -> Iterator[Call]:
    documents: dict[str, Any] = {
        "nothing": b"",
        "no JSON": b"{",
        "a list": b"[]",
        "null": b"null",
        "no inputs": {},
        "inputs that are empty": {"inputs": []},
        "inputs that are an object": {"inputs": {}},
        "inputs that hold null": {"inputs": [None]},
        "an input twice": {"inputs": [tensor(), tensor()]},
        "a second, unknown input": {"inputs": [tensor(), tensor(name="z")]},
        "a key of one's own": {"inputs": [tensor()], "mine": 1},
        "a model name that differs": {"model_name": "other", "inputs": [tensor()]},
        "parameters that are a list": {"inputs": [tensor()], "parameters": []},
        "NaN": json.dumps({"inputs": [tensor(data=[float("nan"), 0])]}).encode(),
        "a byte order mark": b"\xef\xbb\xbf" + json.dumps({"inputs": [tensor()]}).encode(),
        "a tail": json.dumps({"inputs": [tensor()]}).encode() + b"}",
        "a key twice": b'{"inputs":[],' + json.dumps({"inputs": [tensor()]}).encode()[1:],
        "bytes that are no UTF-8": b'{"id":"\xff",' + json.dumps({"inputs": [tensor()]}).encode()[1:],
    }
    for name, document in documents.items():
        yield infer(f"a document with {name}", document)


def _binary() -> Iterator[Call]:
    raw = packed("FP32", [1.0, 2.0])

    def sized(size: Any, **more: Any) -> dict[str, Any]:
        return {"inputs": [tensor(data=None, parameters={"binary_data_size": size}, **more)]}

    yield infer("binary data too short", sized(8), binary=raw[:4])
    yield infer("binary data too long", sized(8), binary=raw + b"1234")
    yield infer("a binary size that is too small", sized(4), binary=raw[:4])
    yield infer("a binary size that is negative", sized(-8), binary=raw)
    yield infer("a binary size that is a string", sized("8"), binary=raw)
    yield infer("binary data and data", {"inputs": [tensor(parameters={"binary_data_size": 8})]}, binary=raw)
    yield infer("binary data without a size", {"inputs": [tensor(data=None)]}, binary=raw)
    document = sized(3, datatype="BYTES")
    yield infer("BYTES cut in a length", document, model="echo_BYTES", binary=b"\x01\0\0")
    document = sized(9, datatype="BYTES")
    yield infer("BYTES cut in an element", document, model="echo_BYTES", binary=b"\x05\0\0\0abcde")
    document = sized(5, datatype="BYTES")
    yield infer("BYTES of one element for two", document, model="echo_BYTES", binary=b"\x01\0\0\0a")
    nan = struct.pack("<2f", float("nan"), float("inf"))
    asked = {**sized(8), "parameters": {"binary_data_output": True}}
    yield infer("NaN and infinity in binary form", asked, binary=nan)
    yield infer("NaN as JSON", sized(8), binary=struct.pack("<2f", float("nan"), 1))
    yield infer("infinity as JSON", sized(8), binary=struct.pack("<2f", float("inf"), 1))
    yield infer("bytes 2 for BOOL", sized(2, datatype="BOOL"), model="echo_BOOL", binary=b"\x02\x01")
    for length in ("x", "-1", "99999", "1e2", "0", ""):
        call = infer(f"a JSON length of {length!r}", {"inputs": [tensor()]})
        yield Call(call.name, call.path, body=call.body, headers={"inference-header-content-length": length})


def _pairs() -> Iterator[Call]:
    def pair(rows: tuple[int, int] = (1, 1), order: str = "ab") -> dict[str, Any]:
        tensors = {
            "a": {"name": "a", "shape": [rows[0], 2], "datatype": "FP32", "data": [1.0, 2.0] * rows[0]},
            "b": {"name": "b", "shape": [rows[1], 1], "datatype": "INT64", "data": [7] * rows[1]},
        }
        return {"inputs": [tensors[name] for name in order]}

    yield infer("two inputs", pair(), model="pair")
    yield infer("two inputs in the other order", pair(order="ba"), model="pair")
    yield infer("two inputs of different rows", pair((2, 1)), model="pair")
    yield infer("one input of two", pair(order="a"), model="pair")
    yield infer(
        "outputs in the other order", {**pair(), "outputs": [{"name": "d"}, {"name": "c"}]}, model="pair"
    )
    yield infer("one output of two", {**pair(), "outputs": [{"name": "d"}]}, model="pair")
    mixed = pair()
    mixed["inputs"][0] = {
        "name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8},
    }  # fmt: skip
    mixed["outputs"] = [{"name": "c"}, {"name": "d", "parameters": {"binary_data": True}}]
    yield infer("both forms in one request", mixed, model="pair", binary=packed("FP32", [1.0, 2.0]))


def _pages() -> Iterator[Call]:
    body = json.dumps({"inputs": [tensor()]}).encode()
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/echo_FP32/ready",
        "/v2/models/echo_FP32/versions/1/ready",
        "/v2/models/echo_FP32/versions/2/ready",
        "/v2/models/absent/ready",
        "/v2/models/echo_FP32",
        "/v2/models/echo_FP32/versions/1",
        "/v2/models/pair",
        "/v2/models/absent",
        "/v2/nothing",
        "/nothing",
    ):
        yield Call(f"GET {path}", path, method="GET")
    yield Call("POST /v2/health/live", "/v2/health/live")
    yield Call("GET of infer", "/v2/models/echo_FP32/infer", method="GET")
    yield Call("infer of a version", "/v2/models/echo_FP32/versions/1/infer", body=body)
    yield Call("infer of an absent version", "/v2/models/echo_FP32/versions/2/infer", body=body)
    yield Call("infer of an absent model", "/v2/models/absent/infer", body=body)
    yield Call("a version that is a word", "/v2/models/echo_FP32/versions/new/infer", body=body)
    yield Call("a target with a query", "/v2/models/echo_FP32/infer?x=1", body=body)
    yield Call("the index of the ready ones", "/v2/repository/index", body=b'{"ready": true}')
