"""What somebody types without reading first."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from benchmarks.children import free_port
from gateway.commands import remote, status
from tests.e2e.common import wait_for
from tests.e2e.test_tls import Issuer
from tests.support.command import turnout
from tests.support.processes import GatewayProcess

CONFIG = """\
listen: 127.0.0.1:@PORT@
store: sqlite:///turnout.db
loops: {watch: 100ms, allocation: 100ms}
backends: {good: {url: "http://127.0.0.1:9"}, dead: {url: "http://127.0.0.1:@DEAD@", ejection: null}}
routes:
  predict:
    match: {path: /predict}
    variants: {v1: {backend: good}, v2: {backend: dead}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 10%, for: 1h}, {weight: 50%, for: 1h}]
"""


@pytest.mark.parametrize("words", [(), ("help",)])
def test_alone_it_shows_the_help(words: tuple[str, ...]) -> None:
    run = [sys.executable, "-m", "gateway.cli", *words]
    said = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stderr) == (0, "")
    assert "rollout" in said.stdout


def test_a_misspelt_command_is_answered_with_the_nearest() -> None:
    said = turnout("stauts")
    assert said.returncode == 2
    assert said.stderr == "turnout: there is no command 'stauts'; did you mean 'turnout status'?\n"


def test_a_version_or_a_misspelt_command_waits_for_no_library() -> None:
    """numpy alone takes longer to import than everything that these need."""
    program = (
        "import sys; from gateway.cli import main; main(['version']); main(['stauts']); "
        "print([name for name in ('numpy', 'scipy', 'pydantic', 'httpx', 'yaml') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert said.stdout.endswith("\n[]\n"), said.stderr


@pytest.mark.parametrize("words", ["schema", "version", "check config.example.yaml"])
def test_an_output_that_takes_nothing_is_told_in_one_line(words: str) -> None:
    run = [sys.executable, "-m", "gateway.cli", *words.split()]
    with Path("/dev/full").open("w") as full:
        said = subprocess.run(run, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (said.returncode, said.stderr) == (1, "turnout: No space left on device\n")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:  # `turnout schema | head`
        said = subprocess.run(run, stdout=gone, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (said.returncode, said.stderr) == (128 + signal.SIGPIPE, "")


def test_a_locale_without_the_letters_gets_escapes(tmp_path: Path) -> None:
    (tmp_path / "turnout.yaml").write_text("routes: {ü: 1}\n", encoding="utf-8")
    ascii_only = os.environ | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    for words, shown in (
        (["check"], "routes.\\xfc"),
        (["check", "--json"], "routes.\\u00fc"),
        (["simulate", "--help"], "--config"),
    ):
        run = [sys.executable, "-m", "gateway.cli", *words]
        said = subprocess.run(run, env=ascii_only, cwd=tmp_path, capture_output=True, check=False, timeout=60)
        assert said.stderr == b""
        assert shown in said.stdout.decode("ascii")
        if "--json" in words:
            assert "ü" in json.loads(said.stdout)["faults"][0]["path"]


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("run --workers 0", "'0' is not a whole number above 0"),
        ("run --workers 100000", "at most 1024"),
        ("run --store bogus", "write sqlite:///FILE or redis://HOST:6379/0"),
        ("run turnout.yaml", "did you mean '--config turnout.yaml'?"),
        ("run -c turnout.yaml", "did you mean '--config'?"),
        ("check -c turnout.yaml", "did you mean 'turnout check FILE'?"),
        ("rollout promote digits", "'digits' is unknown; expected one of promote, rollback, pause"),
        ("rollout promote digits", "after the route: turnout rollout ROUTE ACTION"),
        ("explain digits", "did you mean '--route digits'?"),
        ("serve", "did you mean 'turnout run'?"),
        ("promote digits", "did you mean 'turnout rollout ROUTE promote'?"),
        ("run --port 80", "write the address as 'listen: HOST:PORT' into the configuration"),
        ("check --config turnout.yaml", "did you mean 'turnout check FILE'?"),
        ("status --config turnout.yaml", "did you mean '--url URL'?"),
        ("plan --worse x", "argument --worse: 'x' is not a number above 0"),
        ("plan --rate 0", "'0' is not a number above 0"),
        ("simulate --rate nan", "'nan' is not a number above 0"),
        ("simulate --requests 1e3", "'1e3' is not a whole number above 0"),
        ("simulate --requests 999999999999999", "are too many; write at most 1000000000000"),
        ("simulate --seed -1", "'-1' is not a whole number above 0"),
        ("demo --rate -5", "'-5' is not a number above 0"),
        ("status --url ftp://127.0.0.1", "write one such as http://127.0.0.1:8080"),
        ("status --url http://[::1", "write one such as http://127.0.0.1:8080"),
    ],
)
def test_words_that_mean_nothing_are_told_with_what_to_write(words: str, advice: str) -> None:
    said = turnout(*words.split())
    assert said.returncode == 2
    assert advice in said.stderr.splitlines()[-1]
    assert "such as 50" not in said.stderr, "a number that would be wrong for most options"


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        ("status --url http://127.0.0.1:1", 1, "failed"),
        ("rollout r promote 5%", 2, "invalid_arguments"),
        ("rollout r promote --url http://127.0.0.1:1", 1, "failed"),
        ("explain --config nowhere.yaml --route r", 1, "failed"),
        ("export --config nowhere.yaml --out -", 1, "failed"),
        ("evaluate", 2, "invalid_arguments"),
        ("plan nonsense", 2, "invalid_arguments"),
        ("keys new --id x --scopes nope --rate fast", 2, "invalid_arguments"),
        ("init --current nonsense://", 1, "failed"),
        ("simulate --seed -1", 2, "invalid_arguments"),
        ("stauts", 2, "invalid_arguments"),
    ],
)
def test_an_error_is_one_document_too(
    words: str, code: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = turnout(*words.split(), "--json")
    assert said.returncode == code, said.stderr
    error = json.loads(said.stdout)["error"]
    assert error["code"] == name
    assert error["message"] in said.stderr
    assert "Errno" not in said.stderr
    assert turnout(*words.split()).stdout == ""


@pytest.mark.parametrize(
    ("words", "env", "advice"),
    [
        ("status", {"TURNOUT_KEY": "é"}, "TURNOUT_KEY has a character that no key has"),
        ("status", {"TURNOUT_KEY": "a\nb"}, "TURNOUT_KEY has a character that no key has"),
        ("status", {"TURNOUT_URL": "http://[::1"}, "TURNOUT_URL: 'http://[::1' is not the URL of a gateway"),
        ("status --url https://127.0.0.1:9", {"SSL_CERT_FILE": "/nowhere"}, "SSL_CERT_FILE"),
        ("rollout r set 1", {}, "write 'set 1%' or 'set 100%'"),
        ("engine agent nowhere.json", {}, "nowhere.json: No such file or directory"),
    ],
)
def test_what_the_shell_or_disk_lacks_is_one_line(
    words: str, env: dict[str, str], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        vars(httpx._transports.default), "create_ssl_context", httpx.create_ssl_context
    )  # uncached
    said = turnout(*words.split(), env=env)
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert advice in said.stderr


@pytest.mark.parametrize("words", ["status x?y", "status .", "rollout ../config pause", "report a#b --out -"])
def test_a_route_in_a_url_is_a_name(words: str) -> None:
    said = turnout(*words.split(), env={"TURNOUT_URL": "http://127.0.0.1:9"})
    assert said.returncode == 2
    assert f"argument ROUTE: {words.split()[1]!r} is not a name; write at most" in said.stderr


@pytest.mark.parametrize(
    ("host", "ca", "advice"),
    [("127.0.0.2", "ca.pem", "is for another name"), ("127.0.0.1", "other.pem", "is not trusted")],
)
def test_what_is_wrong_with_a_certificate_is_named(
    host: str, ca: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        vars(httpx._transports.default), "create_ssl_context", httpx.create_ssl_context
    )  # uncached
    Issuer(tmp_path).issue("server")
    Issuer(tmp_path, "other")
    with socket.create_server((host, 0)) as listener:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")

        def refused() -> None:
            with contextlib.suppress(OSError):
                context.wrap_socket(listener.accept()[0], server_side=True).close()

        threading.Thread(target=refused, daemon=True).start()
        url = f"https://{host}:{listener.getsockname()[1]}"
        said = turnout("status", "--url", url, env={"SSL_CERT_FILE": str(tmp_path / ca)})
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert f"its certificate {advice}" in said.stderr


def test_help_of_a_command_and_an_output_that_is_closed() -> None:
    assert "--workers" in turnout("help", "run").stdout
    shell = f"{sys.executable} -m gateway.cli version >&-"
    said = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stderr) == (0, "")


def test_a_scheme_that_does_not_fit_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=speak, daemon=True).start()
        said = turnout("status", "--url", f"https://127.0.0.1:{listener.getsockname()[1]}")
    assert "write http:// instead of https://" in said.stderr


def test_check_finds_the_file_of_the_working_directory(tmp_path: Path) -> None:
    assert "'turnout init'" in turnout("check", cwd=tmp_path).stdout
    (tmp_path / "turnout.yaml").write_text("routes: {}\n")
    assert turnout("check", cwd=tmp_path).returncode == 0


def test_since_is_for_one_route() -> None:
    assert turnout("status", "--since", "1h").returncode == 2
    assert "1h (ago)" in turnout("status", "predict", "--since", "yesterday").stderr
    for no_time in ("nan", "inf"):
        assert "is not a time" in turnout("status", "predict", "--since", no_time).stderr


@pytest.mark.parametrize("body", [b'{"ok": 1}', b"[1]", b"hello"])
@pytest.mark.parametrize("words", [("status",), ("status", "r"), ("rollout", "r", "pause")])
def test_what_is_no_gateway_is_told_in_one_line(words: tuple[str, ...], body: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{other.server_port}"
        said = turnout(*words, "--url", url)
        thread.join()
    assert said.returncode == 1
    assert said.stderr.startswith(f"turnout: {url} responded with 200")
    assert said.stderr.count("\n") == 1


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GatewayProcess:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return GatewayProcess(tmp_path, CONFIG.replace("@DEAD@", str(free_port())))


def test_status_says_what_matters(gateway: GatewayProcess, tmp_path: Path) -> None:
    env = {"TURNOUT_URL": f"127.0.0.1:{gateway.port}"}
    with gateway:
        assert turnout("rollout", "predict", "rollback", "--reason", "too slow", env=env).returncode == 0
        said = turnout("status", env=env).stdout
        assert "rollout: rolled_back" in said
        assert ": rollback: too slow (by anonymous)" in said
        assert "inconclusive" not in said, "of the window that began with the rollback"
        gateway.write(CONFIG.replace("routes:", "routez:").replace("@DEAD@", "9"))
        wait_for(lambda: "configuration refused" in turnout("status", env=env).stdout)
        said = turnout("status", env=env).stdout
        assert f"{gateway.path}:5:1: routez; revision 1 stays in force" in said
        assert json.loads(turnout("status", "--json", env=env).stdout)["config"]["refused"]["faults"] == 1
        for _ in range(6):
            httpx.get(f"{gateway.url}/predict", headers={"x-variant": "v2"})
        wait_for(lambda: "is failing (" in turnout("status", env=env).stdout)
        assert turnout("status", "predict", "--since", "1h", env=env).returncode == 0


def test_explain_finds_a_relative_store_beside_the_file(gateway: GatewayProcess, tmp_path: Path) -> None:
    with gateway:
        wait_for(lambda: "ready" in gateway.log)
    (tmp_path / "elsewhere").mkdir()
    words = ("explain", "--config", "../turnout.yaml", "--route", "predict", "--unit", "u")
    said = turnout(*words, cwd=tmp_path / "elsewhere").stdout
    assert "store: sqlite:///../turnout.db" in said
    assert "epoch 1, published because of" in said
    nowhere = turnout("explain", "--config", "x.yaml", "--route", "predict", cwd=tmp_path)
    assert nowhere.returncode == 1
    (tmp_path / "turnout.db").rename(tmp_path / "gone.db")
    said = turnout(*words, cwd=tmp_path / "elsewhere").stdout
    assert "store: sqlite:///turnout.db (there is no such file yet)" in said


def test_export_to_standard_output_and_of_a_route_that_is_not_there(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    with gateway:
        httpx.get(f"{gateway.url}/predict")
    said = turnout("export", "--config", "turnout.yaml", "--out", "-", cwd=tmp_path)
    assert json.loads(said.stdout)["route"] == "predict"
    words = [sys.executable, "-m", "gateway.cli", "export", "--config", "turnout.yaml", "--out", "-"]
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:  # `turnout export --out - | head`
        piped = subprocess.run(words, cwd=tmp_path, env=env, stdout=gone, stderr=subprocess.PIPE, text=True)
    assert (piped.returncode, piped.stderr) == (128 + signal.SIGPIPE, "")
    (tmp_path / "x.jsonl").write_text("kept")
    said = turnout("export", "--config", "turnout.yaml", "--route", "nope", "--out", "x.jsonl", cwd=tmp_path)
    assert said.returncode == 1
    assert "no rows of the route 'nope'" in said.stderr
    assert (tmp_path / "x.jsonl").read_text() == "kept"
    said = turnout("export", "--config", "turnout.yaml", "--out", "nodir/x.jsonl", cwd=tmp_path)
    assert "there is no directory nodir" in said.stderr
    assert not list(tmp_path.glob(".*.part"))


def test_the_next_release_follows_the_page(gateway: GatewayProcess) -> None:
    """docs/release_cycle.md: promote, wait for the bake, move both names on; all in the folder of turnout.yaml."""

    def shares() -> str:
        return turnout("status", "predict").stdout.splitlines()[0].partition(", v")[2]

    with gateway:
        text = gateway.template + "      bake: 1s\n"
        gateway.write(text)
        wait_for(lambda: "revision 2 is in force" in gateway.log)
        assert turnout("rollout", "predict", "promote").stdout == "predict: promoted, v2 at 95.0%\n"
        wait_for(lambda: shares() == "1 0.0%, v2 100.0%")
        text = text.replace("v2: {backend: dead}}", "v2: {backend: dead}, v3: {backend: good}}")
        gateway.write(text.replace("baseline: v1", "baseline: v2").replace("candidate: v2", "candidate: v3"))
        wait_for(lambda: shares() == "2 90.0%, v3 10.0%")


def test_metrics_name_backends_and_the_process(gateway: GatewayProcess) -> None:
    with gateway:

        def told() -> str:
            return httpx.get(f"{gateway.url}/-/metrics").text

        healthy = 'turnout_backend_healthy{address="http://127.0.0.1:9",backend="good"} 1.0'
        wait_for(lambda: healthy in told())
        metrics = told()
    assert "process_resident_memory_bytes " in metrics
    assert "_created{" not in metrics


def test_a_gateway_tells_its_own_places(gateway: GatewayProcess, tmp_path: Path) -> None:
    """Two gateways on one store: the second one's `listen` is in force, and the first still serves at its own."""
    with gateway:
        other = tmp_path / "other"
        other.mkdir()
        with GatewayProcess(other, gateway.path.read_text().replace(str(gateway.port), "@PORT@")) as second:
            wait_for(lambda: f"than this process (127.0.0.1:{second.port}, not" in gateway.log)
            gateway.stop()
            gateway.start()
        assert gateway.log.count(f"serving {gateway.url} · ") == 2


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_without_its_store_says_so_in_its_own_name(tmp_path: Path, workers: str) -> None:
    """With several workers it began again and again without end."""
    path = tmp_path / "turnout.yaml"
    path.write_text(f"listen: 127.0.0.1:0\nstore: redis://127.0.0.1:{free_port()}/0\n")
    run = [sys.executable, "-m", "gateway.cli", "run", "--config", str(path), "--workers", workers]
    said = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 3
    assert "ERROR turnout.start: The store redis://" in said.stderr
    assert "uvicorn" not in said.stderr


@pytest.mark.parametrize(
    ("listen", "asked"),
    [
        ("127.0.0.1:9", "http://127.0.0.1:9"),
        ("0.0.0.0:9", "http://127.0.0.1:9"),
        ("'[::1]:9'", "http://[::1]:9"),
        ("192.0.2.1:9", "http://127.0.0.1:8080"),
        ("gateway.example:9", "http://127.0.0.1:8080"),
    ],
)
def test_a_file_in_the_directory_sends_no_key_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listen: str, asked: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TURNOUT_URL", raising=False)
    Path("turnout.yaml").write_text(f"listen: {listen}\nroutes: {{}}\n")
    assert remote.gateway_url() == asked


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("listen: 127.0.0.1:9\nstore: '${NOT_SET_HERE}'\nroutes: {a: {}}\n", "http://127.0.0.1:9"),
        ("control: 127.0.0.1:9\ntls: {cert: none, key: none}\nroutez: {}\n", "https://127.0.0.1:9"),
        ("listen: [\n", "http://127.0.0.1:8080"),
        ("listen: nowhere\n", "http://127.0.0.1:8080"),
        ("- listen\n", "http://127.0.0.1:8080"),
    ],
)
def test_a_file_with_a_fault_leads_to_its_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, asked: str
) -> None:
    """`status` says that the file was refused: it asked port 8080 then."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TURNOUT_URL", raising=False)
    Path("turnout.yaml").write_text(text)
    assert remote.gateway_url() == asked


def test_a_watch_goes_on_after_a_call_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As before the gateway starts, or while it restarts."""
    shown: dict[str, object] = {"routes": [], "alarms": [{"message": "seen"}]}
    away = remote.RemoteError("away")
    replies: list[object] = [away, away, shown, away, shown, KeyboardInterrupt()]

    def asked(_: argparse.Namespace) -> object:
        reply = replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    monkeypatch.setattr(status, "_asked", asked)
    monkeypatch.setattr(status, "WATCH_S", 0.0)
    arguments = argparse.Namespace(since=None, route=None, watch=True, json=False)
    with pytest.raises(KeyboardInterrupt):
        status.main(arguments)
    told = capsys.readouterr()
    assert (told.out.count("alarm: seen"), told.err.count("away; trying again every")) == (2, 2)
    wrong = remote.RemoteError("there is no route 'wrong'")
    wrong.lasting = True
    replies[:] = [shown, wrong]
    assert status.main(arguments) == 1
    assert "no route 'wrong'\n" in capsys.readouterr().err
