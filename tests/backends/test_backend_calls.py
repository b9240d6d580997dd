"""Every call of the protocol over real HTTP, right and wrong; one error shape throughout."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import ModelServerProcess

INFER = "/v2/models/digits/versions/1/infer"


@pytest.fixture(scope="module")
def client(server: ModelServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def tensor(rows: int = 1) -> dict[str, Any]:
    return {
        "name": "pixels",
        "datatype": "FP32",
        "shape": [rows, 64],
        "data": [float(i % 17) for i in range(64)] * rows,
    }


def error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (key, message), *more = answer.json().items()
    assert (key, more) == ("error", [])
    assert "Traceback" not in message
    return str(message)


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_server_metadata(client: httpx.Client, path: str) -> None:
    answer = client.get(path).json()
    assert answer["name"] == "turnout"
    assert "statistics" in answer["extensions"]


def test_model_metadata(client: httpx.Client) -> None:
    expected = {
        "name": "digits",
        "versions": ["1", "2", "3"],
        "platform": "pytorch_module",
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
        ],
    }
    assert client.get("/v2/models/digits").json() == expected
    assert client.get("/v2/models/digits/versions/2").json() == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/digits/ready", {"name": "digits", "version": "3", "ready": True}),
        ("/v2/models/digits/versions/1/ready", {"name": "digits", "version": "1", "ready": True}),
    ],
)
def test_health(client: httpx.Client, path: str, expected: dict[str, Any]) -> None:
    assert client.get(path).json() == expected
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")


def test_without_a_version_the_newest_answers(client: httpx.Client) -> None:
    answer = client.post("/v2/models/digits/infer", json={"inputs": [tensor()]})
    assert answer.json()["model_version"] == "3"


def test_only_the_outputs_asked_for(client: httpx.Client) -> None:
    asked = {"id": "q 1", "inputs": [tensor(2)], "outputs": [{"name": "label"}]}
    answer = client.post(INFER, json=asked).json()
    assert answer["id"] == "q 1"
    (label,) = answer["outputs"]
    assert (label["name"], label["datatype"], label["shape"]) == ("label", "INT64", [2])
    assert "id" not in client.post(INFER, json={"inputs": [tensor()]}).json()


def test_repository_index(client: httpx.Client) -> None:
    rows = [{"name": "digits", "version": v, "state": "READY", "reason": ""} for v in "123"]
    assert client.post("/v2/repository/index").json() == rows
    assert client.post("/v2/repository/index", json={"ready": True}).json() == rows
    assert "boolean" in error(client.post("/v2/repository/index", json={"ready": 1}), 400)
    assert "JSON" in error(client.post("/v2/repository/index", content=b"{"), 400)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/", 404, "nothing at '/'"),
        ("GET", "/v2/nothing", 404, "nothing at"),
        ("GET", "/v2/models/digits/versions/1/nothing", 404, "nothing at"),
        ("GET", "/v2/models/digits/nothing", 404, "nothing at"),
        ("POST", "/v2/models/digits/version/1/infer", 404, "nothing at"),
        ("GET", "/v2/models/absent", 404, "there is no model 'absent'; there are digits"),
        ("GET", "/v2/models/digits/versions/9", 404, "has no version '9'; it has 1, 2, 3"),
        ("GET", "/v2/models/digits/versions/01/ready", 404, "has no version '01'"),
        ("POST", "/v2/models/absent/infer", 404, "no model"),
        ("POST", "/v2/models/digits/versions/9/infer", 404, "no version"),
        ("GET", INFER, 405, "send POST"),
        ("DELETE", "/v2/models/digits", 405, "send GET"),
        ("POST", "/v2/health/live", 405, "send GET"),
        ("GET", "/v2/repository/index", 405, "send POST"),
        ("POST", "/v2/repository/models/digits/unload", 403, "--allow-load"),
        ("POST", "/v2/repository/models/../../etc/load", 404, "nothing at"),
        ("POST", INFER, 400, "not valid JSON"),
    ],
)
def test_what_is_not_served(client: httpx.Client, method: str, path: str, status: int, message: str) -> None:
    answer = client.request(method, path)
    assert message in error(answer, status)
    assert (answer.headers.get("allow") is not None) == (status == 405)


def test_content_encodings(client: httpx.Client) -> None:
    body = json.dumps({"inputs": [tensor()]}).encode()
    deflate = zlib.compressobj(wbits=-15)
    forms = {
        "gzip": [gzip.compress(body)],
        "deflate": [zlib.compress(body), deflate.compress(body) + deflate.flush()],
        "identity": [body],
    }
    for encoding, contents in forms.items():
        for content in contents:
            answer = client.post(INFER, content=content, headers={"content-encoding": encoding})
            assert answer.status_code == 200, (encoding, answer.text)
    broken = forms["gzip"][0]
    for content in (broken[:-1], broken + b"x", body, broken + broken):
        assert "gzip" in error(client.post(INFER, content=content, headers={"content-encoding": "gzip"}), 400)
    assert "'br'" in error(client.post(INFER, content=body, headers={"content-encoding": "br"}), 415)


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("gzip, deflate, br", "gzip"), ("deflate", "deflate"), ("gzip;q=0.2, deflate;q=0.7", "deflate"),
        ("gzip;q=0, *", "deflate"), ("br", None), ("gzip;q=nonsense", None), ("", None),
    ],
)  # fmt: skip
def test_answers_are_compressed_as_the_client_likes(
    client: httpx.Client, accept: str, encoding: str | None
) -> None:
    asked = {"inputs": [tensor(40)], "outputs": [{"name": "scores"}]}
    answer = client.post(INFER, json=asked, headers={"accept-encoding": accept})
    assert answer.headers.get("content-encoding") == encoding
    assert answer.json()["outputs"][0]["shape"] == [40, 10]


def test_a_bomb_is_refused_before_it_unfolds(client: httpx.Client) -> None:
    bomb = zlib.compress(b"0" * (80 * 1024 * 1024))
    answer = client.post(INFER, content=bomb, headers={"content-encoding": "deflate"})
    assert "unfolds to more than" in error(answer, 413)


def test_a_body_too_large_is_refused_by_its_length(server: ModelServerProcess) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {2**40}\r\n\r\n".encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_is_read_whole(client: httpx.Client) -> None:
    body = json.dumps({"inputs": [tensor(100)]}).encode()
    pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
    assert client.post(INFER, content=pieces).json()["outputs"][1]["shape"] == [100]


@pytest.mark.parametrize(
    "head",
    [
        "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "nonsense\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nHost: x\r\n" + "x-filler: {filler}\r\n" * 200,
    ],
)
def test_ambiguous_heads_end_the_connection(server: ModelServerProcess, head: str) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        smuggled = b"GET /v2/models/digits HTTP/1.1\r\nHost: x\r\n\r\n"
        text = head.format(path=INFER, filler="y" * 1000).encode()
        answer = b""
        try:
            for start in range(0, len(text), 8192):
                raw.sendall(text[start : start + 8192])
            raw.sendall(smuggled)
            while piece := raw.recv(65536):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert b"pytorch_module" not in answer
        assert answer.count(b"HTTP/1.1 ") <= 1
        assert answer[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 431 ", b"")


def test_statistics_and_metrics_count_what_happened(client: httpx.Client) -> None:
    def figures() -> tuple[dict[str, Any], dict[str, float]]:
        (stats,) = client.get("/v2/models/digits/versions/2/stats").json()["model_stats"]
        text = client.get("/metrics").text
        samples = {
            f"{sample.name}/{sample.labels.get('outcome', sample.labels.get('le', ''))}": sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("version") == "2"
        }
        return stats, samples

    stats, samples = figures()
    url = "/v2/models/digits/versions/2/infer"
    assert client.post(url, json={"inputs": [tensor(5)]}).status_code == 200
    assert client.post(url, json={"inputs": []}).status_code == 400
    later, more = figures()
    assert later["inference_count"] - stats["inference_count"] == 5
    assert later["execution_count"] - stats["execution_count"] == 1
    assert later["inference_stats"]["success"]["count"] - stats["inference_stats"]["success"]["count"] == 1
    assert later["inference_stats"]["success"]["ns"] > stats["inference_stats"]["success"]["ns"]
    assert 5 in [row["batch_size"] for row in later["batch_stats"]]
    never = {"count": 0, "ns": 0}
    assert (later["inference_stats"]["cache_hit"], later["inference_stats"]["cache_miss"]) == (never, never)
    assert (later["response_stats"], later["memory_usage"]) == ({}, [])
    grown = {name: value - samples[name] for name, value in more.items() if value != samples[name]}
    assert grown["turnout_backend_requests_total/answered"] == 1
    assert grown["turnout_backend_requests_total/invalid"] == 1
    assert grown["turnout_backend_rows_total/"] == 5
    assert (grown["nv_inference_request_success/"], grown["nv_inference_count/"]) == (1, 5)
    assert (grown["nv_inference_exec_count/"], more["nv_inference_pending_request_count/"]) == (1, 0)
    assert grown["nv_inference_request_duration_us/"] > 0
    assert grown["turnout_backend_batches_total/"] == 1
    assert grown["turnout_backend_batch_rows_bucket/8.0"] == 1
    assert "turnout_backend_batch_rows_bucket/4.0" not in grown
    assert grown["turnout_backend_request_seconds_count/"] == 1


def test_values_that_mean_nothing_are_answered_all_the_same(client: httpx.Client) -> None:
    for value in (np.nan, np.inf, -3e38):
        raw = np.full((2, 64), value, dtype="<f4").tobytes()
        entry = {
            "name": "pixels",
            "datatype": "FP32",
            "shape": [2, 64],
            "parameters": {"binary_data_size": len(raw)},
        }
        head = json.dumps({"inputs": [entry]}).encode()
        headers = {"inference-header-content-length": str(len(head))}
        for version in "123":
            answer = client.post(
                f"/v2/models/digits/versions/{version}/infer", content=head + raw, headers=headers
            )
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["outputs"][0]["data"]) == 20


MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 40)), min_size=1, max_size=4
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MUTATIONS, st.integers(-80, 900), st.booleans())
def test_a_damaged_request_never_breaks_the_server(
    client: httpx.Client, mutations: list[tuple[float, bytes, int]], shift: int, binary: bool
) -> None:
    entry = tensor()
    raw = b""
    if binary:
        raw = np.arange(64, dtype="<f4").tobytes()
        del entry["data"]
        entry["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [entry], "outputs": [{"name": "label"}]}).encode()
    body = head + raw
    for place, patch, cut in mutations:
        at = int(place * len(body))
        body = body[:at] + patch + body[at + cut :]
    headers = {"inference-header-content-length": str(len(head) + shift)} if binary else {}
    answer = client.post(INFER, content=body, headers=headers)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        error(answer, 400)
