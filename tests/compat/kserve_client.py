"""Run in the environment `kserve`: KServe's clients against the server at the addresses given; prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

DATATYPES: dict[str, Any] = {
    "FP32": np.float32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "FP16": np.float16,
    "BYTES": np.object_,
}


def request(datatype: str, *, send: bool, get: bool) -> Any:
    """Two rows; ``send`` and ``get`` say whether tensors go in binary form."""
    values = [[b"a", "zwölf".encode()], [b"", b"x"]] if datatype == "BYTES" else [[1, 0], [0, 1]]
    rows: Any = np.array(values, DATATYPES[datatype])
    tensor = InferInput("x", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows, binary_data=send)
    outputs = [RequestedOutput("y", parameters={"binary_data": get})]
    return InferRequest(f"echo_{datatype}", [tensor], request_id="seven", request_outputs=outputs), rows


def seen(response: Any, rows: Any) -> dict[str, Any]:
    """What the client read."""
    (output,) = response.outputs
    array = output.as_numpy().reshape(rows.shape)
    if array.dtype == object:
        array = np.array([[one if isinstance(one, bytes) else one.encode() for one in row] for row in array])
        rows = rows.astype(array.dtype)
    return {
        "equal": bool((array == rows).all()),
        "datatype": output.datatype,
        "name": output.name,
        "model": response.model_name,
        "id": response.id,
    }


async def main(http: str, rpc: str) -> dict[str, Any]:
    """Everything that the clients can do."""
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=1))
    grpc = InferenceGRPCClient(rpc, retries=2)
    found: dict[str, Any] = {
        "rest live": await rest.is_server_live(http),
        "rest ready": await rest.is_server_ready(http),
        "rest model": await rest.is_model_ready(http, "echo_FP32"),
        "rest absent": await rest.is_model_ready(http, "absent"),
        "grpc live": await grpc.is_server_live(),
        "grpc ready": await grpc.is_server_ready(),
        "grpc model": await grpc.is_model_ready("echo_FP32"),
    }
    for datatype in DATATYPES:
        for send in (True, False):
            for get in (True, False):
                if datatype == "FP16" and not send:
                    continue  # the protocol has no such JSON
                asked, rows = request(datatype, send=send, get=get)
                name = f"{datatype} {send} {get}"
                found[f"rest {name}"] = seen(
                    await rest.infer(http, asked, model_name=f"echo_{datatype}"), rows
                )
                asked, rows = request(datatype, send=send, get=get)
                found[f"grpc {name}"] = seen(await grpc.infer(asked), rows)
    asked, _ = request("FP32", send=True, get=True)
    try:
        await rest.infer(http, asked, model_name="absent")
    except Exception as error:  # noqa: BLE001  whatever kind the client has
        found["rest error"] = f"{type(error).__name__}: {error}"
    await rest.close()
    await grpc.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
