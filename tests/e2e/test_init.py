"""``turnout init`` before real servers: what it writes is valid, runs, and serves."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, ClassVar

import grpc
import httpx
import jsonschema
import pytest
import yaml

from backends.reference import digits
from benchmarks.children import free_port
from gateway.commands.detect import detect
from gateway.config.load import load_file
from tests.e2e.common import request_body
from tests.e2e.test_tls import Issuer
from tests.support.command import turnout
from tests.support.http_server import Handler, HttpServer
from tests.support.processes import GatewayProcess, ModelServerProcess


class Pages(Handler):
    """GET path → JSON; anything else is 404, as with a real server."""

    pages: ClassVar[dict[str, Any]] = {}

    def do_GET(self) -> None:
        known = self.path in self.pages
        page = self.pages.get(self.path)
        body = json.dumps(page).encode()
        if isinstance(page, str) and page.startswith("http"):
            self.send_response(307)
            self.send_header("location", page)
        else:
            self.send_response(page if isinstance(page, int) else 200 if known else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Everywhere(dict[str, Any]):
    """The same page at every path."""

    def __contains__(self, _path: object) -> bool:
        return True


def serving(pages: dict[str, Any]) -> Iterator[str]:
    with HttpServer(type("Handler", (Pages,), {"pages": pages})) as server:
        yield server.url


def init(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return turnout("init", *options, cwd=folder)


@pytest.mark.slow
def test_what_it_writes_for_the_bundled_server_serves(
    tmp_path: Path, model_server: ModelServerProcess, held_out: digits.Digits
) -> None:
    url = f"http://{model_server.address}"
    done = init(tmp_path, "--current", url, "--candidate", url, "--path", "/v2/models/digits")
    assert done.returncode == 0, done.stderr
    assert "Open Inference Protocol" in done.stdout
    text = (tmp_path / "turnout.yaml").read_text().replace("127.0.0.1:8080", "127.0.0.1:@PORT@")
    folder = tmp_path / "run"
    folder.mkdir()
    keys = dict(line.split("=") for line in (tmp_path / "turnout.keys").read_text().splitlines())
    with GatewayProcess(folder, text.replace("sqlite:///", "sqlite:///@DIR@/")) as gateway:
        infer = f"{gateway.url}/v2/models/digits/infer"
        body = request_body(held_out.pixels[0])
        assert httpx.post(infer, json=body).status_code == 401
        answer = httpx.post(infer, json=body, headers={"x-api-key": keys["TURNOUT_APP_KEY"]})
        assert answer.status_code == 200
        assert answer.headers["x-variant"] in ("v1", "v2")
        done = turnout("status", "--url", gateway.url, env={"TURNOUT_KEY": keys["TURNOUT_KEY"]})
        assert "digits" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("pages", "kind", "path", "health", "comparison"),
    [
        ({"/v1/models": {"data": [{"id": "llama"}]}, "/health": {}}, "OpenAI", "/v1", "/health", "openai"),
        (
            {"/openapi.json": {"info": {"title": "Cats"}, "paths": {"/x": {"post": {}}, "/predict": {"post": {}}}}},
            "Cats (OpenAPI)", "/predict", None, "auto",
        ),
        ({"/ping": {}, "/version": "2"}, "/ping", "/invocations", "/ping", "auto"),
        ({"/v2/health/ready": {}, "/v2": {"name": "triton"}}, "triton, Open", "/v2/models", "/v2/health/ready", "v2"),
        ({"/v1/models": 401}, "OpenAI endpoints that need a key", "/v1", None, "openai"),
        ({"/": "http://127.0.0.1:1/other"}, "redirects to http://127.0.0.1:1/other", "/", None, "auto"),
        ({"/openapi.json": {"info": None, "paths": {}}}, "FastAPI (OpenAPI)", "/", None, "auto"),
        ({}, "an HTTP server", "/", None, "auto"),
        (Everywhere({}), "an HTTP server", "/", None, "auto"),
    ],
    ids=[
        "openai", "openapi", "mlflow", "triton", "openai with a key", "redirect", "openapi without a title", "plain",
        "alike everywhere",
    ],
)  # fmt: skip
def test_servers_are_known_by_what_they_say(
    tmp_path: Path, pages: dict[str, Any], kind: str, path: str, health: str | None, comparison: str
) -> None:
    for url in serving(pages):
        done = init(tmp_path, "--current", url, "--route", "r")
        assert done.returncode == 0, done.stderr
        assert kind in done.stdout
        document = load_file(tmp_path / "turnout.yaml")
        found = document.backends["current"].health
        assert (found.path if found else None) == health
        assert document.routes["r"].match.path == path
        assert document.routes["r"].comparison.type == comparison
        assert stat.S_IMODE((tmp_path / "turnout.keys").stat().st_mode) == 0o600


def test_openai_servers_get_a_named_route_their_own_model_names_and_time_to_generate(tmp_path: Path) -> None:
    one, other = (
        {"/v1/models": {"data": [{"id": name}]}, "/health": {}} for name in ("llama", "llama-tuned")
    )
    for current in serving(one):
        for candidate in serving(other):
            done = init(tmp_path, "--current", current, "--candidate", candidate)
            assert "/v1/chat/completions -H" in done.stdout
            assert "unreachable" not in done.stdout
        route = load_file(tmp_path / "turnout.yaml").routes["chat"]
        assert route.match.protocol == ("openai",)
        assert [variant.rewrite.model for variant in route.variants.values()] == ["llama", "llama-tuned"]
        assert route.timeouts.total is None
        # One server of both, and a server that is away.
        done = init(tmp_path, "--force", "--current", current, "--candidate", current)
        route = load_file(tmp_path / "turnout.yaml").routes["chat"]
        assert [variant.rewrite.model for variant in route.variants.values()] == [None, None]
        done = init(tmp_path, "--force", "--current", current, "--candidate", "http://127.0.0.1:1")
        assert "start what is unreachable and repeat this with --force" in done.stdout


def test_what_a_server_says_cannot_leave_its_comment_or_read_the_environment(tmp_path: Path) -> None:
    title = "x\nlisten: 0.0.0.0:80\n#\0\x1b"
    pages = {
        "/openapi.json": {
            "info": {"title": title},
            "paths": {"/${HOME}": {"post": {}}, "/p{id}": {"post": {}}},
        }
    }
    for url in serving(pages):
        assert init(tmp_path, "--current", url, "--route", "r").returncode == 0
        document = load_file(tmp_path / "turnout.yaml")
        assert document.listen == "127.0.0.1:8080"
        assert document.routes["r"].match.path == "/"


@pytest.mark.parametrize("path", ["/v1", "/v1/chat/completions"])
def test_the_url_of_an_sdk_or_of_a_call_leads_to_the_server(tmp_path: Path, path: str) -> None:
    for url in serving({"/v1/models": {"data": [{"id": "llama"}]}}):
        assert init(tmp_path, "--current", f"{url}{path}", "--route", "r").returncode == 0
        document = load_file(tmp_path / "turnout.yaml")
        assert str(document.backends["current"].url) == url
        assert document.routes["r"].match.path == "/v1"


@pytest.mark.parametrize(
    ("candidate", "options", "base", "path", "up"),
    [
        ("/predict", (), "", "/predict", True),
        (None, (), "", "/predict", False),
        ("/new/predict", ("--route", "r"), "/predict", "/", True),  # the route has one path
        (None, ("--path", "/v1"), "/predict", "/v1", True),
    ],
)
def test_the_url_of_a_call_to_an_unknown_server_is_its_address_and_the_path(
    tmp_path: Path, candidate: str | None, options: tuple[str, ...], base: str, path: str, up: bool
) -> None:
    for url in serving({}) if up else ["http://127.0.0.1:9"]:
        with_candidate = ("--candidate", f"{url}{candidate}") if candidate else ()
        done = init(tmp_path, "--current", f"{url}/predict", *with_candidate, *options)
        assert done.returncode == 0, done.stderr
        document = load_file(tmp_path / "turnout.yaml")
        assert str(document.backends["current"].url) == f"{url}{base}"
        (route,) = document.routes.values()
        assert route.match.path == path


class Endless(Handler):
    """Sends 256 MB, whatever the path."""

    sent = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-encoding", "gzip")  # which could unpack to a thousand times as much
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            for _ in range(4096):
                self.wfile.write(b"0" * 65_536)
                Endless.sent += 65_536


def test_of_a_server_that_streams_without_end_only_the_start_is_read() -> None:
    with HttpServer(Endless) as server:
        found = detect(server.url, endpoint=False)
    assert (found.kind, found.reachable) == ("an HTTP server", True)
    assert Endless.sent < 256 << 20, "of all requests together"


def test_a_redirect_to_tls_is_named(tmp_path: Path) -> None:
    pages: dict[str, Any] = {}
    for url in serving(pages):
        pages["/"] = url.replace("http:", "https:")
        done = init(tmp_path, "--current", url)
        assert f"redirects to {pages['/']}" in done.stdout


def test_a_server_that_hangs_up_on_unknown_paths_is_reachable(tmp_path: Path) -> None:
    class Rude(Pages):
        def do_GET(self) -> None:
            if self.path == "/":
                super().do_GET()
            else:
                self.close_connection = True

    with HttpServer(Rude) as server:
        done = init(tmp_path, "--current", server.url)
    assert done.stdout.splitlines()[0].endswith(": an HTTP server")


def test_a_server_of_grpc_alone_is_called_over_http2(tmp_path: Path) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        done = init(tmp_path, "--current", f"127.0.0.1:{port}")
    finally:
        server.stop(None)
    assert "gRPC" in done.stdout
    assert str(load_file(tmp_path / "turnout.yaml").backends["current"].url) == f"h2c://127.0.0.1:{port}"


def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Path) -> None:
    Issuer(tmp_path).issue("server")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")

        def refused() -> None:
            with contextlib.suppress(OSError):
                context.wrap_socket(listener.accept()[0], server_side=True).close()

        threading.Thread(target=refused, daemon=True).start()
        done = init(tmp_path, "--current", f"https://127.0.0.1:{listener.getsockname()[1]}")
    assert "its certificate is not trusted" in done.stdout
    assert "# tls: {ca: ca.pem}" in (tmp_path / "turnout.yaml").read_text()


def test_the_gateway_listens_beside_its_servers(tmp_path: Path) -> None:
    done = init(tmp_path, "--current", "http://127.0.0.1:8080", "--candidate", "http://[::1]:8081")
    assert "curl -i 127.0.0.1:8082/" in done.stdout
    assert load_file(tmp_path / "turnout.yaml").listen == "127.0.0.1:8082"


@pytest.mark.parametrize(
    "options",
    [
        ("--current", "http://[::1"), ("--current", "ftp://127.0.0.1"), ("--current", ""), ("--out", "."),
        ("--out", "turnout.keys"), ("--out", "nowhere/turnout.yaml"), ("--path", "predict"), ("--route", "a/b"),
    ],
)  # fmt: skip
def test_what_init_cannot_use_is_one_line_and_no_file(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = init(tmp_path, "--current", "http://127.0.0.1:9", *options)
    assert (done.returncode, done.stderr.count("\n"), list(tmp_path.iterdir())) == (1, 1, [])
    assert done.stderr.startswith("turnout: ")


@pytest.mark.parametrize("policy", ["single", "shadow", "canary", "bandit"])
def test_every_policy_is_valid_while_no_server_is_up(tmp_path: Path, policy: str) -> None:
    urls = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    options = ("--current", urls[0], "--candidate", urls[1], "--policy", policy, "--path", "/p", "--no-auth")
    done = init(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert "unreachable" in done.stdout
    document = load_file(tmp_path / "turnout.yaml")
    assert document.routes["p"].policy.type == policy
    assert document.auth is None
    assert not (tmp_path / "turnout.keys").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "turnout: name the server in production: --current http://HOST:PORT"),
        (["--current", "a", "--policy", "canary"], "turnout: a canary needs --candidate"),
        (["--current", "127.0.0.1:9", "--path", "no"], "turnout: the result is not a valid configuration: 'no' is"),
        (["--current", "127.0.0.1:9", "--out", "there/x.yaml"], "turnout: there is no directory there; make it"),
    ],
    ids=["no server", "no candidate", "bad path", "no folder"],
)  # fmt: skip
def test_what_cannot_be_written_is_one_line(tmp_path: Path, options: list[str], said: str) -> None:
    done = init(tmp_path, *options)
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_schema_that_its_first_line_names_is_there_for_editors(tmp_path: Path) -> None:
    done = init(tmp_path, "--current", "http://127.0.0.1:9", "--path", "/a/path/of/34/characters")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "turnout.yaml").read_text()
    assert not re.search(r"\S#", text), "YAML 1.2 wants a space before a comment"
    named = re.search(r"\$schema=(\S+)", text)
    assert named is not None
    schema = json.loads((tmp_path / named[1]).read_text())
    document = yaml.safe_load((tmp_path / "turnout.yaml").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "turnout.yaml").write_text("mine")
    done = init(tmp_path, "--current", "127.0.0.1:9")
    assert "turnout.yaml exists; write another --out, or --force" in done.stderr
    assert (tmp_path / "turnout.yaml").read_text() == "mine"
    assert init(tmp_path, "--current", "127.0.0.1:9", "--force").returncode == 0


def test_all_files_are_written_or_none(tmp_path: Path) -> None:
    """A disk that was full after the configuration lost the secrets whose hashes it had."""
    words = [
        sys.executable,
        "-m",
        "gateway.cli",
        "init",
        "--current",
        "127.0.0.1:9",
        "--out",
        str(tmp_path / "a.yaml"),
    ]
    limit = "import resource as r, os, sys; r.setrlimit(r.RLIMIT_FSIZE, (2, 2)); os.execv(sys.argv[1], sys.argv[1:])"

    def files() -> dict[str, str]:
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    for before in ({}, {"a.yaml": "mine", "a.keys": "mine"}):
        for name, text in before.items():
            (tmp_path / name).write_text(text)
        full = subprocess.run(
            [sys.executable, "-c", limit, *words, "--force"], capture_output=True, text=True
        )
        assert (full.returncode, full.stderr) == (1, "turnout: File too large\n")
        assert files() == before
    subprocess.run([*words, "--force"], check=True, capture_output=True)
    assert sorted(files()) == ["a.keys", "a.yaml", "turnout.schema.json"]


def on_a_terminal(directory: Path, answers: list[bytes], *options: str) -> tuple[int, str]:
    """Exit code and output of an ``init`` whose questions get ``answers``."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = os.getcwd()
        os.chdir(directory)
        os.execv(sys.executable, [sys.executable, "-m", "gateway.cli", "init", *options])
    seen, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                seen += os.read(terminal, 4096)
            except OSError:  # the other side has closed
                break
        if answers and seen.rstrip().endswith(b":"):  # a question, also "[/]:"
            os.write(terminal, answers.pop(0))
            seen += b" "
            time.sleep(0.1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


def test_it_asks_on_a_terminal(tmp_path: Path) -> None:
    code, seen = on_a_terminal(tmp_path, [b"127.0.0.1:9\n", b"127.0.0.1:10\n"], "--path", "/p")
    assert code == 0, seen
    assert load_file(tmp_path / "turnout.yaml").routes["p"].policy.type == "canary"


def test_it_asks_for_a_path_that_probing_cannot_find(tmp_path: Path) -> None:
    code, seen = on_a_terminal(tmp_path, [b"127.0.0.1:9\n", b"\n", b"/predict\n"])
    assert code == 0, seen
    assert load_file(tmp_path / "turnout.yaml").routes["predict"].match.path == "/predict"


def test_an_end_of_input_at_a_question_writes_nothing(tmp_path: Path) -> None:
    code, seen = on_a_terminal(tmp_path, [b"\x04"])
    assert code == 1
    assert "turnout: the input ended at a question; write options" in seen
    assert "Traceback" not in seen
    assert not list(tmp_path.iterdir())
