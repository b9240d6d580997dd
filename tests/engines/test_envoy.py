"""A real Envoy serves a route of a running gateway: shares, stickiness, ids, rows, rewards, and what breaks."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import xxhash
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from gateway.compile.plans import salt
from gateway.config.load import load
from gateway.engines.offers import salt_text
from gateway.engines.rows import SEPARATOR
from gateway.errors import render
from gateway.state.sqlite import SqliteStore
from gateway.state.units import UNITS
from policies.allocation.bucketing import allocation
from policies.allocation.cells import PARTS, cells
from policies.types import RewardSums
from tests.engines.node import Setup, check_seals, wait_for
from tests.support.command import turnout

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-the-edge-engine"
PATH = "/v2/models/digits/infer"
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {watch: 200ms}
metrics:
  correct: {type: boolean, window: 1h}
backends:
  one: {url: "URL1"}
  two: {url: "URL2"}
  turnout: {url: "http://127.0.0.1:@PORT@", headers: {authorization: Bearer 50%}}
engines:
  edge: {type: envoy, token: TOKEN, nodes: [e*], ids: sealed}
routes:
  digits:
    engine: edge
    match: {path: /v2/models/digits}
    unit: {header: x-user-id}
    variants:
      v1: {backend: one, rewrite: {path: /m/}, headers: {x-a: "50%", x-b: ""}}
      v2: {backend: two, rewrite: {path: /m/}, headers: {x-a: "50%", x-b: ""}}
    policy: {type: split, weights: {v1: 9, v2: 1}}
    fallback: [v1]
    fallback_on: {status: [503]}
    timeouts: {first_byte: 3s}
  plain:
    engine: edge
    match: {path: /plain, methods: [GET], headers: {x-mode: a}}
    variants: {only: {backend: one}}
    policy: {type: single, variant: only}
  copied:
    engine: edge
    match: {path: /copied}
    variants: {only: {backend: one, rewrite: {path: /m}, headers: {x-secret: of one}}}
    policy: {type: single, variant: only}
    mirror: {backend: turnout, share: 100%}
  copies:
    match: {path: /copied}
    variants: {v1: {backend: one}, v2: {backend: two}}
    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}
"""


class OneNode(Setup):
    """A gateway, a node and two backends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CONFIG.replace("TOKEN", TOKEN), "e1")
        (self.node,) = self.nodes
        self.text = self.gateway.template
        self.node.wait_serving(PATH)

    def edit(self, policy: str) -> None:
        """Give the route ``digits`` another policy."""
        self.text = re.sub("policy: .*", f"policy: {{{policy}}}", self.text, count=1)
        self.gateway.write(self.text)

    async def reward_sums(self) -> dict[tuple[str, str], RewardSums]:
        store = SqliteStore(self.gateway.folder / "turnout.db")
        await store.open()
        try:
            return await store.reward_sums("digits")
        finally:
            await store.close()


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneNode]:
    made = OneNode(tmp_path_factory.mktemp("envoy"))
    yield made
    made.stop()


@pytest.fixture
def client(setup: OneNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=setup.node.url, timeout=60) as made:
        yield made


def predicted(setup: OneNode, units: list[str], shares: dict[str, float]) -> list[str]:
    """What Python says of each unit: xxHash64 of the salted text, modulo the parts."""
    document = load(setup.gateway.path.read_text(), source="test", env={})
    prefix, found = salt_text(salt(document, "digits")), cells(allocation(shares))
    return [found.pick(xxhash.xxh64_intdigest(f"{prefix}{unit}".encode()) % PARTS) for unit in units]


def test_every_unit_gets_the_variant_that_python_predicts_before_and_after_a_ramp(
    setup: OneNode, client: httpx.Client
) -> None:
    units = [f"user-{n}" for n in range(400)]

    def variant(unit: str) -> str:
        return client.post(PATH, headers={"x-user-id": unit}).headers["x-variant"]

    def assigned() -> list[str]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(variant, units))

    before = assigned()
    assert before == predicted(setup, units, {"v1": 0.9, "v2": 0.1})
    setup.edit("type: split, weights: {v1: 7, v2: 3}")
    wait_for(lambda: setup.report()["allocation"]["v2"] == 0.3 and setup.accepted(), "the node has the ramp")
    after = assigned()
    assert after == predicted(setup, units, {"v1": 0.7, "v2": 0.3})
    assert not [unit for unit, a, b in zip(units, before, after, strict=True) if (a, b) == ("v2", "v1")]
    counted = Counter(before), Counter(after)
    assert counted[0]["v2"] < counted[1]["v2"]


def test_a_request_is_recorded_and_takes_rewards_of_its_unit(setup: OneNode, client: httpx.Client) -> None:
    answered = [client.post(PATH, headers={"x-user-id": "anna"}) for _ in range(2)]
    first, second = map(setup.outcome, answered)
    ids = [response.headers["x-decision-id"] for response in answered]
    items = [{"decision_id": identity, "metric": "correct", "value": True} for identity in ids]
    sent = httpx.post(f"{setup.gateway.url}/-/feedback", json={"items": items}, timeout=60).json()
    assert (sent["accepted"], sent["rejected"]) == (2, [])
    assert first["unit"] == second["unit"]
    assert first["sticky"]
    assert first["propensity"] == setup.report()["allocation"][first["assigned"]]
    assert first["status"] == 200
    assert first["request_id"] == answered[0].headers["x-request-id"]
    assert first["total_ms"] >= first["backend_ms"] > 0
    units = asyncio.run(setup.reward_sums())[first["assigned"], "correct" + UNITS]
    assert units.count == 1, "two rewards of one unit are one observation"


def test_forged_and_replayed_ids_are_refused(setup: OneNode, client: httpx.Client) -> None:
    check_seals(setup, *(client.post(PATH).headers["x-decision-id"] for _ in range(2)))


def test_every_seal_is_right_and_the_backend_gets_it(setup: OneNode, client: httpx.Client) -> None:
    for backend in setup.backends:
        backend.seen.clear()
    ids = [client.post(PATH).headers["x-decision-id"] for _ in range(300)]
    items = [{"decision_id": identity, "metric": "correct", "value": True} for identity in ids]
    sent = httpx.post(f"{setup.gateway.url}/-/feedback", json={"items": items}, timeout=60).json()
    assert (sent["accepted"], sent["rejected"]) == (len(ids), [])
    seen = {fields["x-decision-id"] for backend in setup.backends for _, fields in backend.seen}
    assert seen == {identity.rpartition(".")[0] for identity in ids}


def test_what_the_backend_is_sent(setup: OneNode, client: httpx.Client) -> None:
    for backend in setup.backends:
        backend.seen.clear()
    client.post(
        f"{PATH}?a=1",
        headers={"x-user-id": "anna", "x-variant": "v2", "x-a": "evil", "x-b": "evil", "x-decision-id": "evil"},
    )  # fmt: skip
    ((path, fields),) = setup.backends[0].seen + setup.backends[1].seen
    assert path == "/m/infer?a=1"
    assert (fields["x-a"], fields["x-b"]) == ("50%", "")
    own = {name for name in fields if name.startswith("x-turnout")}
    assert own == {"x-turnout-unit"}
    assert "x-variant" not in fields
    assert "evil" not in fields["x-decision-id"]
    assert fields["host"] in (b.url.removeprefix("http://") for b in setup.backends)


def test_an_empty_unit_is_no_unit(setup: OneNode, client: httpx.Client) -> None:
    seen = [client.post(PATH, headers={"x-user-id": ""}) for _ in range(60)]
    assert len({response.headers["x-variant"] for response in seen}) == 2
    outcome = setup.outcome(seen[-1])
    assert not outcome["sticky"]


def test_a_route_without_units_and_its_conditions(setup: OneNode, client: httpx.Client) -> None:
    answered = client.get("/plain/x", headers={"x-mode": "a", "x-turnout-unit": "invented"})
    assert (answered.status_code, answered.headers["x-variant"]) == (200, "only")
    outcome = setup.outcome(answered)
    assert (outcome["route"], outcome["sticky"], outcome["propensity"]) == ("plain", False, 1.0)
    for refused in (
        client.get("/plain/x"),
        client.post("/plain/x", headers={"x-mode": "a"}),
        client.get("/plainer", headers={"x-mode": "a"}),
    ):
        assert (refused.status_code, refused.content) == (404, render("unknown_route"))


def test_copies_are_compared_by_a_route_of_the_gateway(setup: OneNode, client: httpx.Client) -> None:
    sent: list[httpx.Response] = []

    def compared() -> dict[str, Any] | None:
        """More than one copy, since a busy gateway may drop some."""
        sent.append(client.get("/copied/x?a=1", headers={"authorization": "the client's"}))
        agreement: dict[str, Any] = setup.report("copies")["agreement"]["v2"]
        return agreement if agreement["compared"] else None

    assert wait_for(compared, "a copy is compared")["rate"] == 0.0
    assert {(one.status_code, one.headers["x-variant"]) for one in sent} == {(200, "only")}
    own = next(fields for path, fields in setup.backends[0].seen if path == "/m/x?a=1")
    assert (own["authorization"], own["x-secret"]) == ("the client's", "of one")
    path, fields = next(one for one in setup.backends[1].seen if one[0].startswith("/copied"))
    assert (path, fields["authorization"]) == ("/copied/x?a=1", "Bearer 50%")
    assert "x-secret" not in fields
    assert fields["x-request-id"] in [one.headers["x-request-id"] for one in sent]
    assert setup.outcome(sent[0])["route"] == "copied", "the request itself is in the record of its route"


@pytest.mark.parametrize("failure", ["status", "slow"])
def test_a_fallback_is_served_by_the_other_and_charged_to_the_assigned(
    setup: OneNode, client: httpx.Client, failure: str
) -> None:
    shares = setup.report()["allocation"]
    units = [f"user-{n}" for n in range(200)]
    unit = next(u for u, v in zip(units, predicted(setup, units, shares), strict=True) if v == "v2")
    setup.backends[1].status, setup.backends[1].delay = (503, 0.0) if failure == "status" else (200, 10.0)
    try:
        # A body that Envoy would not keep by default.
        answered = client.post(PATH, headers={"x-user-id": unit}, content=bytes(2 * 1024 * 1024))
    finally:
        setup.backends[1].status, setup.backends[1].delay = 200, 0.0
    assert (answered.status_code, answered.headers["x-variant"]) == (200, "v1")
    assert setup.reward(answered.headers["x-decision-id"])["accepted"] == 1
    paths = [path for b in setup.backends for path, fields in b.seen if fields.get("x-user-id") == unit]
    assert set(paths) == {"/m/infer"}
    assert len(paths) >= 2
    outcome = setup.outcome(answered)
    assert (outcome["assigned"], outcome["served"], outcome["fallback"]) == ("v2", "v1", True)
    assert outcome["error"] == "backend_status"


def test_a_client_that_leaves_is_recorded_as_such(setup: OneNode, client: httpx.Client) -> None:
    setup.backends[0].delay = setup.backends[1].delay = 0.7
    try:
        with pytest.raises(httpx.ReadTimeout):
            client.post(PATH, headers={"x-user-id": "leaver"}, timeout=0.2)
    finally:
        setup.backends[0].delay = setup.backends[1].delay = 0.0
    wait_for(
        lambda: [
            o
            for o in httpx.get(f"{setup.gateway.url}/-/outcomes?status=499").json()["outcomes"]
            if o["error"] == "client_left" and not o["served"]
        ],
        "the row says that the client left",
    )


def test_strangers_get_neither_routes_nor_a_word_in_the_record(setup: OneNode) -> None:
    url, known = setup.gateway.url, {"authorization": f"Bearer {TOKEN}"}
    body = {"node": {"id": "e9"}, "version_info": ""}
    assert httpx.post(f"{url}/v3/discovery:routes", json=body).status_code == 401
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": TOKEN}):
        assert httpx.post(f"{url}/-/engines/rows", content=b"", headers=headers).status_code == 401
    other = httpx.post(f"{url}/v3/discovery:routes", json={"node": {"id": "x1"}}, headers=known)
    assert (other.status_code, other.json()["error"]["code"]) == (403, "forbidden")
    for bad in (b"{", b"[]", b"{}", b'{"node": {"id": 5}}'):
        refused = httpx.post(f"{url}/v3/discovery:routes", content=bad, headers=known)
        assert refused.status_code in (400, 422)
        assert refused.json()["error"]["message"]
    rows = httpx.post(f"{url}/-/engines/rows", content=b"\xff\xff", headers=known)
    assert (rows.status_code, rows.json()["error"]["code"]) == (422, "invalid")
    counters = f"{url}/-/engines/counters"
    assert httpx.post(counters, content=b"", headers=known).status_code == 403, "it names no node"
    known["x-turnout-node"] = "e1"
    assert httpx.post(counters, content=b"\xff\xff", headers=known).json()["error"]["code"] == "invalid"
    assert httpx.post(f"{url}{PATH}").json()["error"]["code"] == "unknown_route", (
        "the gateway does not serve it"
    )


@pytest.mark.parametrize("field", [b"x-user-id: \xff\xfe", b"x-user-id: a\tb", b"x-request-id: \xff\xfe"])
def test_no_byte_of_a_header_loses_the_rows_of_others(
    setup: OneNode, client: httpx.Client, field: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", setup.node.port)) as raw:
        raw.sendall(
            b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n%b\r\n\r\n" % (PATH.encode(), field)
        )
        other = client.post(PATH, headers={"x-user-id": "other"})
        seen = raw.recv(65536).decode("latin-1")
    found = re.search("x-decision-id: (\\S+)", seen)
    assert found is not None, seen
    assert setup.outcome(other)["sticky"]
    strange = setup.outcome(httpx.Response(200, headers={"x-decision-id": found[1]}))
    assert strange["sticky"] is field.startswith(b"x-user-id")
    assert strange["request_id"].isascii()


def test_neither_decide_nor_explain_guesses_what_a_node_would_do(setup: OneNode) -> None:
    decided = httpx.post(f"{setup.gateway.url}/-/decide", json={"route": "digits", "unit": "anna"})
    assert (decided.status_code, decided.json()["error"]["code"]) == (422, "invalid")
    assert "'edge'" in decided.json()["error"]["message"]
    command = ["explain", "--config", str(setup.gateway.path), "--route", "digits"]
    assert turnout(*command).returncode == 0
    refused = turnout(*command, "--unit", "anna")
    assert refused.returncode != 0
    assert "leave --unit out" in refused.stderr


def test_a_row_that_is_sent_twice_counts_once(setup: OneNode, client: httpx.Client) -> None:
    answered = client.post(PATH, headers={"x-user-id": "anna"})
    outcome = setup.outcome(answered)
    export = ExportLogsServiceRequest()
    logs = export.resource_logs.add().scope_logs.add().log_records
    identity = answered.headers["x-decision-id"].rpartition(".")[0]
    row = [
        identity, "digits", outcome["served"], "200", "-", "1", "900", "90", "700", "1", "1", "a:1", "r",
        "anna",
    ]  # fmt: skip
    far = f"{identity.split('.')[0]}.{1 << 47}.{identity.split('.')[2]}"
    odd = [{0: identity.swapcase()}, {0: far}, {2: "v 1"}, {3: "1000"}, {9: "x"}, {9: "9" * 30}]
    for changes in ({}, *odd):
        logs.add().body.string_value = SEPARATOR.join(changes.get(n, text) for n, text in enumerate(row))

    before = setup.recorded()
    sent = httpx.post(
        f"{setup.gateway.url}/-/engines/rows",
        content=export.SerializeToString(),
        headers={"authorization": f"Bearer {TOKEN}"},
    )
    assert sent.json() == {"accepted": 1, "rejected": len(odd)}
    setup.outcome(client.post(PATH))  # the record has what was reported before this request
    wait_for(lambda: setup.recorded() >= before + 1, "the later request is counted")
    assert setup.recorded() == before + 1


def test_a_report_of_counters_is_no_error_in_the_log_of_the_node(setup: OneNode) -> None:
    """An Envoy takes any status but 200 for one."""
    wait_for(lambda: setup.nodes_shown()[0]["delivered"], "the node has reported its counters")
    assert "non-success status code: 2" not in setup.node.log


def test_the_node_goes_on_without_the_gateway_and_takes_up_what_is_new(
    setup: OneNode, client: httpx.Client
) -> None:
    setup.gateway.crash()
    assert {client.post(PATH).status_code for _ in range(20)} == {200}
    setup.edit("type: single, variant: v2")
    setup.gateway.start()
    wait_for(setup.accepted, "the node has the new routes")
    assert {client.post(PATH).headers["x-variant"] for _ in range(20)} == {"v2"}


def test_a_node_that_an_edit_takes_away_serves_on(setup: OneNode, client: httpx.Client) -> None:
    refused = "discovery:clusters failed"
    before = setup.node.log.count(refused)
    setup.gateway.write(setup.text.replace("nodes: [e*]", "nodes: [x*]"))
    wait_for(lambda: setup.node.log.count(refused) > before, "its held poll is refused")
    assert {client.post(PATH).status_code for _ in range(20)} == {200}
    setup.gateway.write(setup.text)
    wait_for(setup.accepted, "it is a node again")


def test_a_node_of_a_bootstrap_that_cannot_seal_keeps_its_routes(
    setup: OneNode, client: httpx.Client
) -> None:
    setup.node.kill()
    config = json.loads(setup.node.path.read_text())
    del config["node"]["metadata"]
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    manager["http_filters"] = manager["http_filters"][-1:]
    setup.node.path.write_text(json.dumps(config))
    setup.gateway.write(setup.text.replace("ids: sealed", "ids: stamped"))
    setup.node.start()
    setup.node.wait_serving(PATH)
    wait_for(setup.accepted, "the node has the routes with stamped ids")
    setup.edit("type: single, variant: v1")
    (shown,) = wait_for(
        lambda: [node for node in setup.nodes_shown() if node["state"] == "refused"], "it is shown"
    )
    assert "print it again" in shown["refused"]
    answered = [client.post(PATH) for _ in range(20)]
    assert {response.headers["x-variant"] for response in answered} == {"v2"}
    assert setup.outcome(answered[-1])["served"] == "v2", "its ids are stamped ones"
