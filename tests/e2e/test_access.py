"""What keys, logins and texts may do with a real gateway of two workers, as an attacker would try it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.common import wait_for
from tests.support.processes import GatewayProcess


def key(name: str, rest: str) -> str:
    return f'    - {{id: {name}, hash: "sha256:{hashlib.sha256(name.encode()).hexdigest()}", {rest}}}\n'


CONFIG = (
    """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics: {correct: {type: boolean}}
backends:
  a: {url: "http://127.0.0.1:9", headers: {x-token: "${TURNOUT_TEST_TOKEN}"}}
routes:
  one:
    match: {path: /one}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    fallback: [{respond: {status: 200, text: "1"}}]
  two:
    match: {path: /two}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
    fallback: [{respond: {status: 200, text: "2"}}]
auth:
  keys:
"""
    + key("ops", "scopes: [admin]")
    + key("file", "scopes: [config]")
    + key("reader", "scopes: [read]")
    + key("bound", "scopes: [admin], routes: [one]")
)
HERE = {"sec-fetch-site": "same-origin"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TURNOUT_TEST_TOKEN", "hunter2-token")
        patch.setenv("TURNOUT_TEST_OTHER", "hunter2-other")
        before = os.umask(0o022)
        folder: Path = tmp_path_factory.mktemp("access")
        try:
            with GatewayProcess(folder, CONFIG, "--workers", "2") as found:
                yield found
        finally:
            os.umask(before)


def ask(gateway: GatewayProcess, method: str, path: str, who: str = "", **more: object) -> httpx.Response:
    headers = {"x-api-key": who, "if-match": "*"} if who else {}
    return httpx.request(method, gateway.url + path, headers=headers, **more)  # type: ignore[arg-type]


def test_a_bound_admin_can_not_unbind_itself(gateway: GatewayProcess) -> None:
    """S2: a PUT of the same text without its own `routes:` was accepted."""
    text = ask(gateway, "GET", "/-/config", "ops").text
    assert text == gateway.path.read_text()
    assert (
        ask(gateway, "PUT", "/-/config", "bound", content=text.replace(", routes: [one]", "")).status_code
        == 403
    )
    assert ask(gateway, "GET", "/two", "bound").status_code == 403
    assert ask(gateway, "GET", "/one", "bound").status_code == 200
    assert ask(gateway, "GET", "/-/config", "ops").text == text


def test_figures_of_a_bound_key_are_those_of_its_routes(gateway: GatewayProcess) -> None:
    """S23, on what prometheus_client really writes."""
    for path in ("/one", "/two"):
        assert ask(gateway, "GET", path, "ops").status_code == 200
    wait_for(lambda: 'route="two"' in ask(gateway, "GET", "/-/metrics", "ops").text)
    headers = {"x-api-key": "bound", "host": "gateway"}  # from this machine by its address no key is asked
    shown = httpx.get(f"{gateway.url}/-/metrics", headers=headers).text
    lines = [line for line in shown.splitlines() if not line.startswith("#")]
    assert lines
    assert all('route="one"' in line for line in lines)


@pytest.mark.parametrize("author", ["ops", "file"])
def test_no_file_is_written_that_the_file_does_not_name(gateway: GatewayProcess, author: str) -> None:
    """A key with `config` could append lines with text of its own to the user's .bashrc, by a request's id."""
    target, folder = gateway.folder / "bashrc", gateway.folder / "hours"
    text = ask(gateway, "GET", "/-/config", "ops").text
    for section in (
        f"telemetry: {{access_log: {target}}}",
        f'telemetry: {{access_log: "{gateway.folder}\\x2fbashrc"}}',
        f"record: {{archive: {folder}}}",
        f"record: {{archive: 'file://{folder}'}}",
        "record: {archive: 's3://others/prefix?endpoint_override=evil.example'}",
    ):
        refused = ask(gateway, "PUT", "/-/config", author, content=f"{text}\n{section}\n")
        assert refused.status_code == 422, section
        assert "so other texts may not have it written" in refused.text
    headers = {"x-api-key": "ops", "x-request-id": "$(id>/tmp/x)"}
    assert httpx.get(gateway.url + "/one", headers=headers).status_code == 200
    assert not target.exists()
    assert not folder.exists()


def test_a_text_may_write_where_the_file_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_TEST_TOKEN", "hunter2-token")
    monkeypatch.setenv("TURNOUT_TEST_LOGS", str(tmp_path))
    config = CONFIG + 'telemetry: {access_log: "${TURNOUT_TEST_LOGS}/access.jsonl"}\n'
    with GatewayProcess(tmp_path, config) as gateway:
        text = ask(gateway, "GET", "/-/config", "ops").text
        for edited in (text + "# an edit\n", text.replace('"${TURNOUT_TEST_LOGS}/access.jsonl"', '"-"')):
            assert ask(gateway, "PUT", "/-/config", "ops", content=edited).status_code == 200


def test_no_value_of_the_environment_leaves_the_gateway(gateway: GatewayProcess) -> None:
    """S11, S24: by a local reply, by a fault's words, by the event that tells of it, by the log."""
    text = ask(gateway, "GET", "/-/config", "ops").text
    for spelling in (
        "${TURNOUT_TEST_OTHER}",
        r"\x24{TURNOUT_TEST_OTHER}",
        "$\\\n         {TURNOUT_TEST_OTHER}",
    ):
        planted = text.replace('text: "1"', f'text: "{spelling}"')
        assert planted != text
        for author in ("ops", "file"):  # "file" is also what history calls the file
            answer = ask(gateway, "PUT", "/-/config", author, content=planted)
            assert answer.status_code == 422, (spelling, author)
            assert "does not name ${TURNOUT_TEST_OTHER}" in answer.text
    faulty = text.replace("http://127.0.0.1:9", "http://h:${TURNOUT_TEST_TOKEN}")
    refused = ask(gateway, "PUT", "/-/config", "ops", content=faulty)
    assert refused.status_code == 422
    gateway.write(faulty)
    end = time.monotonic() + 60
    events = ""
    while "stays as it is" not in gateway.log or "config_refused" not in events:
        assert time.monotonic() < end, gateway.log
        time.sleep(0.1)
        events = ask(gateway, "GET", "/-/events/recent?limit=1000", "ops").text
    gateway.write(CONFIG)
    assert "config_refused" not in ask(gateway, "GET", "/-/events/recent?limit=1000", "reader").text
    for said in (answer.text, refused.text, events, gateway.log):
        assert "hunter2" not in said
        assert "other" not in said.replace("TURNOUT_TEST_OTHER", "").replace("other texts", "").lower()


def test_a_copied_cookie_dies_with_the_log_out_in_every_worker(gateway: GatewayProcess) -> None:
    """S28. Each request is a connection of its own, so that both workers are asked."""
    login = httpx.post(f"{gateway.url}/-/dashboard/login", json={"key": "reader"}, headers=HERE)
    assert login.status_code == 204
    cookies = dict(login.cookies)
    (name,) = cookies
    assert name.startswith("turnout-session-")

    def statuses() -> set[int]:
        return {httpx.get(f"{gateway.url}/-/routes", cookies=cookies).status_code for _ in range(12)}

    assert statuses() == {200}
    out = httpx.post(f"{gateway.url}/-/dashboard/logout", cookies=cookies, headers=HERE)
    assert out.status_code == 204
    wait_for(lambda: statuses() == {401})


def test_only_the_owner_reads_what_the_gateway_writes(gateway: GatewayProcess) -> None:
    """S12, at the usual umask."""
    modes = {path.name: path.stat().st_mode & 0o077 for path in gateway.folder.glob("turnout.db*")}
    assert {"turnout.db", "turnout.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0}, modes


def test_the_login_answers_any_key_and_tires_of_guesses(gateway: GatewayProcess) -> None:
    """S26, and the limit of each worker."""
    url = f"{gateway.url}/-/dashboard/login"
    assert httpx.post(url, json={"key": "schl\u00fcssel"}, headers=HERE).status_code == 401
    found = [httpx.post(url, json={"key": f"guess-{n}"}, headers=HERE).status_code for n in range(40)]
    assert set(found) == {401, 429}
    assert found.count(401) <= 2 * 10 + 4
