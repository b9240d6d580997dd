"""`turnout report` of every kind of route, from a real gateway with real traffic."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.commands import report_text
from gateway.commands.report_document import document
from gateway.commands.report_page import page
from policies.rollout.verdicts import Verdict
from tests.e2e.common import wait_for
from tests.support.command import turnout
from tests.support.http_server import Handler, HttpServer
from tests.support.processes import GatewayProcess

HOSTILE = "<script>alert(1)</script>\"'&\u202e</td>"
SECRET = "Bearer literal-secret"
CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
loops: {watch: 100ms, allocation: 100ms}
engines: {edge: {type: envoy, token: edge-token-0123456789}}
metrics:
  correct: {type: boolean, description: "the label was <b>right</b>"}
  amount: {type: real}
  click: {type: boolean, missing: zero, window: 5s}
  unused: {type: fraction}
backends:
  old: {url: "http://@BACKEND@/old"}
  new: {urls: ["http://@BACKEND@/new"], headers: {x-api-key: "Bearer literal-secret"}}
  bad: {url: "http://@BACKEND@/bad"}
routes:
  single: {match: {path: /single}, variants: {v1: {backend: old}}, policy: {type: single, variant: v1}}
  split:
    match: {path: /split}
    unit: {header: x-user}
    variants:
      v1: {backend: old}
      v2: {backend: new, rewrite: {path: /models/2}, headers: {authorization: "Bearer literal-secret"}}
    policy: {type: split, weights: {v1: 1, v2: 1}}
  shadow:
    match: {path: /shadow}
    variants: {v1: {backend: old}, v2: {backend: new}}
    policy: {type: shadow, primary: v1, shadows: {v2: 100%}}
  promoted:
    match: {path: /promoted}
    variants: {v1: {backend: old}, v2: {backend: new}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 30%, for: 1s, min_samples: 10}, {weight: 50%, for: 1s, min_samples: 10}]
      guardrails: [{metric: error_rate, max_increase: 50%}, {metric: latency_p50, max_ratio: 30}]
    fallback: [v1]
  failed:
    match: {path: /failed}
    variants: {v1: {backend: old}, v2: {backend: bad}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 50%, for: 1h}]
      guardrails: [{metric: error_rate, max_increase: 1%}, {metric: correct, max_decrease: 90%}]
    fallback: [v1]
  gated:
    match: {path: /gated}
    variants: {v1: {backend: old}, v2: {backend: new}}
    policy: {type: canary, baseline: v1, candidate: v2, gate: {agreement: 99%}, stages: [{weight: 30%, for: 1h}]}
  paused:
    match: {path: /paused}
    variants: {v1: {backend: old}, v2: {backend: new}}
    policy: {type: canary, baseline: v1, candidate: v2, stages: [{weight: 30%, for: 1h}]}
  bandit:
    match: {path: /bandit}
    variants: {v1: {backend: old}, v2: {backend: new}, v3: {backend: old}}
    policy: {type: bandit, metric: correct, floor: 20%}
  linear:
    match: {path: /linear}
    variants: {v1: {backend: old}, v2: {backend: new}}
    policy:
      type: bandit
      algorithm: linear
      metric: correct
      floor: 20%
      features: {tier: {header: x-tier, values: [free, paid]}}
  decided:
    variants: {warm: {payload: {prompt: "Be <warm>."}}, cold: {payload: "${NOT_SET:-cold}"}}
    policy: {type: split, weights: {warm: 1, cold: 1}}
  edge: {engine: edge, match: {path: /edge}, variants: {v1: {backend: old}}, policy: {type: single, variant: v1}}
"""
REQUESTS = {
    "single": 10, "split": 120, "shadow": 40, "promoted": 60, "failed": 60, "gated": 20, "bandit": 90, "linear": 60,
    "decided": 20,
}  # fmt: skip
ROUTES = (*REQUESTS, "paused", "edge")
ALLOWED = set(
    "html head meta title style body main section div h1 h2 p b small span code ul li a br table caption thead "  # noqa: SIM905
    "tbody tr th td svg line rect circle".split()
)
"""The tags of a page."""


class Model(Handler):
    """``/new`` differs from ``/old`` in a key that a model made up; ``/bad`` fails."""

    def do_POST(self) -> None:
        self.content()
        body = {HOSTILE: 1} if self.path.startswith("/new") else {"label": "a"}
        self.respond(body, 500 if self.path.startswith("/bad") else 200)

    def do_GET(self) -> None:
        """As a gateway of another release, whose report has other keys."""
        self.respond({"variants": {}, "scopes": [], "routes": None})


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with HttpServer(Model) as server:
        yield server.address


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("report"), CONFIG.replace("@BACKEND@", backend)) as found:
        with httpx.Client(base_url=found.url, timeout=30) as client:
            for route, requests in REQUESTS.items():
                send(client, route, requests)
            steer(client)
            until(client, "promoted", "promoted")
            until(client, "failed", "rolled_back")
            wait_for(lambda: all(settled(client, route) for route in ROUTES), limit=90.0)
        yield found


def send(client: httpx.Client, route: str, requests: int) -> None:
    rng = random.Random(route)
    for number in range(requests):
        if route == "decided":
            found = client.post("/-/decide", json={"route": route}).json()
            decision, variant = found["decision_id"], found["variant"]
        else:
            headers = {"x-user": f"u{number % 40}", "x-tier": rng.choice(["free", "paid"])}
            response = client.post(f"/{route}/x", json={}, headers=headers)
            decision, variant = response.headers["x-decision-id"], response.headers["x-variant"]
        values: dict[str, object] = {"correct": rng.random() < 0.8}
        values |= {"amount": len(variant) + rng.random()} if number % 2 else {"click": True}
        items = [{"decision_id": decision, "metric": key, "value": value} for key, value in values.items()]
        assert client.post("/-/feedback", json={"items": items}).json()["rejected"] == []


def steer(client: httpx.Client) -> None:
    assert client.post("/-/routes/paused/notes", json={"text": HOSTILE}).status_code == 200
    word = {"action": "pause", "reason": HOSTILE.replace("\u202e", "")}
    wait_for(lambda: client.get("/-/routes/paused").json()["rollout"] is not None)
    assert client.post("/-/routes/paused/rollout", json=word).status_code == 200


def settled(client: httpx.Client, route: str) -> bool:
    """Whether time alone changes no figure: all windows have ended."""
    variants = client.get(f"/-/routes/{route}").json()["variants"].values()
    return all(one["rewards"]["click"]["count"] == one["assigned"] for one in variants)


def until(client: httpx.Client, route: str, state: str) -> None:
    def there() -> bool:
        send(client, route, 10)
        return bool(client.get(f"/-/routes/{route}").json()["rollout"]["state"] == state)

    wait_for(there)


class Cells(HTMLParser):
    """The rows of all tables by their text, and every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data

    def under(self, title: str) -> list[list[str]]:
        """The rows below the one that begins with ``title``, as far as they are as long as the first of them."""
        begin = next(n for n, row in enumerate(self.rows) if row[0].startswith(title)) + 1
        end = next(
            (n for n in range(begin, len(self.rows)) if len(self.rows[n]) != len(self.rows[begin])), None
        )
        return self.rows[begin:end]


def made(gateway: GatewayProcess, folder: Path, route: str, *words: str) -> tuple[str, dict[str, Any], str]:
    """The page, the document, and what the command printed."""
    out = folder / f"{route}.html"
    done = turnout("report", route, "--url", gateway.url, "--out", str(out), "--json", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return out.read_text(), json.loads(done.stdout), done.stdout


def percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.4g}".replace("-", "−")


@pytest.mark.parametrize("route", ROUTES)
def test_every_kind_of_route_has_a_page_of_the_figures_of_the_api(
    gateway: GatewayProcess, tmp_path: Path, route: str
) -> None:
    text, found, printed = made(gateway, tmp_path, route)
    api = httpx.get(f"{gateway.url}/-/routes/{route}").json()
    moving = {
        "as_of", "health", "rollout", "epoch", "allocation", "example", "recent", "alarms", "contextual",
    }  # fmt: skip
    assert {key: found[key] for key in api.keys() - moving} == {key: api[key] for key in api.keys() - moving}
    history = httpx.get(f"{gateway.url}/-/routes/{route}/history?limit=400").json()["steps"]
    assert [step["time"] for step in found["history"]] == [step["time"] for step in history]
    assert found["configuration"]["revision"] == 1
    assert page(found) == text
    assert hashlib.sha256(printed.encode()).hexdigest() in text
    rows = Cells(text).rows
    for name, one in api["variants"].items():
        counts = [str(one[key]) for key in ("served", "errors", "fallbacks")]
        row = next(r for r in rows if r[0] == name and r[-3:] == counts)
        assert row[2] == str(one["assigned"])
    total = sum(one["assigned"] for one in api["variants"].values())
    in_time = [one["assigned"] for bucket in found["traffic"] for one in bucket["variants"].values()]
    assert sum(in_time) == total


def test_means_and_differences_are_those_of_the_api(gateway: GatewayProcess, tmp_path: Path) -> None:
    text, found, _ = made(gateway, tmp_path, "split")
    rows = {row[0]: row[1:] for row in Cells(text).under("correct boolean")}
    for name, one in found["variants"].items():
        reward = one["rewards"]["correct"]
        assert rows[name][0] == f"{reward['count']:g} ({reward['observations']:g} observations)"
        low, high = reward["interval"]
        assert rows[name][1] == f"{percent(reward['mean'])} % [{percent(low)}, {percent(high)}]"
    lift = found["variants"]["v2"]["lift"]["correct"]
    absolute = f"{percent(lift['absolute'], '+')} pp [{', '.join(percent(e, '+') for e in lift['interval'])}]"
    relative = f"{percent(lift['relative'], '+')} % [{', '.join(percent(e, '+') for e in lift['relative_interval'])}]"
    assert rows["v2"][2] == f"{absolute}{relative}undecided, by unit"
    assert rows["v1"][2] == "baseline"
    assert found["configuration"]["route"]["variants"]["v2"]["rewrite"] == {"path": "/models/2"}
    assert "path /models/2" in text


def test_what_rolled_back_is_shown_as_it_stood(gateway: GatewayProcess, tmp_path: Path) -> None:
    text, found, _ = made(gateway, tmp_path, "failed")
    step = next(
        s for s in found["history"] if s["kind"] == "rollout" and s["data"]["target"] == "rolled_back"
    )
    evidence = {one["metric"]: one for one in step["data"]["evidence"]}
    assert {one["metric"]: one["estimate"] for one in found["rollout"]["verdicts"]} == {
        name: one["estimate"] for name, one in evidence.items()
    }
    said = Cells(text).under("Metric")
    row = next(r for r in said if r[0] == "error_rate" and r[1] == "+1 pp")
    one = evidence["error_rate"]
    assert row[2] == (
        f"{percent(one['estimate'], '+')} pp [{', '.join(percent(e, '+') for e in one['interval'])}]"
    )
    assert row[4].startswith("✕ fail")
    assert f"{one['samples']:g} requests" in row[5]
    assert "Rolled back: v2 has 0 % of the traffic" in text
    assert "Verdict: fail" in text
    rescued = sum(one["fallbacks"] for one in found["variants"].values())
    assert f"Rewards of the {rescued} decisions that a fallback served count as" in " ".join(found["limits"])


def test_a_shadow_is_shown_with_its_kinds_of_disagreement(gateway: GatewayProcess, tmp_path: Path) -> None:
    text, found, _ = made(gateway, tmp_path, "shadow")
    agreed = found["agreement"]["v2"]
    path = f"{gateway.url}/-/routes/shadow/disagreements?shadow=v2"
    kinds = httpx.get(path).json()["kinds"]
    assert httpx.get(f"{path}&cursor={'0' * 32}").json()["error"]["code"] == "invalid"
    assert found["shadow_reports"]["v2"]["kinds"] == kinds
    assert kinds
    row = Cells(text).under("Shadow")[0]
    assert row[1] == f"{agreed['compared']} of {agreed['answers']}"
    assert row[2].startswith("0 % [0, ")
    assert row[3].endswith(f" {kinds[0][1]}")


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_on_a_page_is_markup_of_a_client_or_comes_from_elsewhere(
    gateway: GatewayProcess, tmp_path: Path, route: str
) -> None:
    text, _, printed = made(gateway, tmp_path, route)
    tags = Cells(text).tags
    assert {name for name, _ in tags} <= ALLOWED
    links = [one["href"] for _, one in tags if "href" in one]
    assert [link for link in links if link and not link.startswith("data:application/json;base64,")] == []
    assert not any(key.startswith("on") or key == "src" for _, one in tags for key in one)
    assert "url(" not in text
    assert "\u202e" not in text
    assert SECRET not in text + printed
    assert "@import" not in text
    if route == "paused":
        assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
        assert "\\u202e" in text


def test_a_password_in_the_url_is_not_on_the_page(gateway: GatewayProcess) -> None:
    url = gateway.url.replace("//", "//ada:literal-secret@")
    done = turnout("report", "paused", "--url", url, "--out", "-")
    assert f"{gateway.url}, Turnout" in done.stdout
    assert "literal-secret" not in done.stdout


def test_a_period_bounds_the_figures(gateway: GatewayProcess, tmp_path: Path) -> None:
    text, found, _ = made(gateway, tmp_path, "split", "--since", str(time.time() + 60))
    assert sum(one["assigned"] for one in found["variants"].values()) == 0
    assert "no decision yet; decisions after" in text
    assert any("are not limited to the period" in one for one in found["limits"])


def test_the_limits_of_the_statements(gateway: GatewayProcess, tmp_path: Path) -> None:
    _, found, _ = made(gateway, tmp_path, "bandit")
    limits = " ".join(found["limits"])
    assert "unused has no values" in limits
    assert "missing values count as zero, or as its worst value after a failure; 0 are not due yet" in limits
    made_, known = 90, sum(one["rewards"]["amount"]["count"] for one in found["variants"].values())
    assert f"amount: {known:g} of {made_} decisions have a value" in limits
    assert found["sample_ratio"]["result"] == "no mismatch found"
    assert made(gateway, tmp_path, "linear")[1]["sample_ratio"]["result"] == "not tested"
    assert made(gateway, tmp_path, "single")[1]["sample_ratio"]["result"] == "not tested"


def test_a_key_that_may_read_one_route_is_enough(tmp_path: Path) -> None:
    done = turnout("keys", "new", "--id", "auditor", "--scopes", "read", "--routes", "split", "--json")
    key = json.loads(done.stdout)
    text = CONFIG.replace("@BACKEND@", "127.0.0.1:9")
    auth = f"auth: {{keys: [{{id: auditor, hash: {json.dumps(key['hash'])}, scopes: [read], routes: [split]}}]}}\n"
    with GatewayProcess(tmp_path, auth + text) as gateway:
        without = turnout("report", "split", "--url", gateway.url, "--json")
        assert without.returncode == 1
        assert "asks for a key; set TURNOUT_KEY" in without.stderr
        asked = ("report", "split", "--url", gateway.url, "--out", "-")
        done = turnout(*asked, env={"TURNOUT_KEY": key["secret"]})
        assert done.returncode == 0, done.stderr
        assert "with the key auditor" in done.stdout
        assert "The configuration was not read" in done.stdout
        assert "Alarms of the whole gateway, such as lost records, were not read" in done.stdout
        assert Cells(done.stdout).under("Variant")[1][3] == "not read"
        other = turnout(
            "report", "single", "--url", gateway.url, "--json", env={"TURNOUT_KEY": key["secret"]}
        )
        assert other.returncode == 1


def test_what_cannot_be_done_is_one_line(gateway: GatewayProcess, backend: str, tmp_path: Path) -> None:
    def refused(*words: str, code: int = 1) -> str:
        done = turnout("report", *words)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.count("\n") == 1 or code == 2
        return done.stderr

    out, url = str(tmp_path / "page.html"), ("--url", gateway.url)
    assert "There is no route 'splt'" in refused("splt", *url, "--out", out)
    assert "'../config?x' is not a name; write" in refused("../config?x", *url, "--out", out, code=2)
    assert "name it with --url" in refused("split", "--url", "http://127.0.0.1:9", "--out", out)
    assert "it is of another release" in refused("split", "--url", f"http://{backend}", "--out", out)
    assert f"there is no directory {tmp_path}/no" in refused(
        "split", *url, "--out", f"{tmp_path}/no/page.html"
    )
    assert "Is a directory" in refused("split", *url, "--out", str(tmp_path))
    assert "write --out FILE.html for the page, --json for its data, or both" in refused("split", code=2)
    assert "is not a time" in refused("split", *url, "--out", out, "--since", "yesterday", code=2)
    done = turnout("report", "split", "--out", "-", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "invalid_arguments"
    assert list(tmp_path.iterdir()) == []


# What a gateway may say, but does not say here --------------------------------------------------------------
@pytest.fixture
def said(gateway: GatewayProcess) -> dict[str, Any]:
    """The responses of a quiet route."""

    def get(path: str) -> Any:
        return httpx.get(gateway.url + path).json()

    return {
        "gateway": gateway.url, "version": "0.1.0", "session": {"id": "me"}, "report": get("/-/routes/split"),
        "history": get("/-/routes/split/history")["steps"], "verdict": None, "series": None, "shadows": {},
        "engines": [], "gateway_alarms": [], "config": None,
    }  # fmt: skip


def alarm(kind: str, at: float, code: str) -> dict[str, Any]:
    return {"id": 1, "time": at, "kind": kind, "data": {"code": code, "message": f"since {at:g}"}}


def test_alarms_stand_or_are_over(said: dict[str, Any]) -> None:
    standing = {"code": "sample_ratio_mismatch", "message": HOSTILE, "since": 50.0}
    steps = [
        alarm("alarm", 50.0, "sample_ratio_mismatch"),
        alarm("alarm_over", 40.0, "no_rewards"),
        alarm("alarm", 30.0, "no_rewards"),
        alarm("alarm_over", 20.0, "no_rewards"),
        alarm("alarm", 10.0, "no_rewards"),
    ]
    said = said | {"report": said["report"] | {"alarms": [standing]}, "history": steps}
    found = document(said, 100.0)
    assert [(one["code"], one["since"], one["until"]) for one in found["alarms"]] == [
        ("sample_ratio_mismatch", 50.0, None),
        ("no_rewards", 30.0, 40.0),
        ("no_rewards", 10.0, 20.0),
    ]
    assert found["sample_ratio"] == {"result": "mismatch", "message": HOSTILE}
    assert "Comparisons are not valid while the alarm sample_ratio_mismatch stands." in found["limits"]
    assert "Sample-ratio check: mismatch." in re.sub("<[^>]*>", "", page(found))


def test_whence_a_person_steered_is_left_out(said: dict[str, Any]) -> None:
    data = {"action": "set", "weight": 0.25, "by": "ada", "session": "s1", "address": "10.1.2.3"}
    step = {"id": 1, "time": 1.0, "kind": "steered", "data": data}
    found = document(said | {"history": [step]}, 100.0)
    assert "10.1.2.3" not in json.dumps(found)
    row = Cells(page(found)).under("Time")[0]
    assert row[1:] == ["Steered set at 25 %", "ada", ""]


def test_the_step_of_a_guardrail_has_the_verdict_on_one_variant(said: dict[str, Any]) -> None:
    verdict = {
        "metric": "error_rate", "verdict": "fail", "bound": "max_increase", "limit": 0.05, "estimate": 0.4782,
        "interval": [0.1885, 0.7437], "samples": 46.0,
    }  # fmt: skip
    data = {"variant": "v2", "reason": HOSTILE, "evidence": verdict}
    found = document(said | {"history": [{"id": 1, "time": 1.0, "kind": "guardrail", "data": data}]}, 100.0)
    row = Cells(page(found)).under("Time")[0]
    assert row[1] == "Guardrail v2"
    assert row[3].endswith(
        "error_rate: ✕ fail, +47.82 pp [+18.85, +74.37], limit +5 pp, 46 requests"
    )  # as a build recorded it that knew no units


def test_the_guardrails_of_a_bandit_are_shown_by_variant(said: dict[str, Any]) -> None:
    verdict = Verdict("error_rate", "fail", "max_increase", 0.05, 0.01, 0.4782, (0.1885, 0.7437), samples=46)
    one = {"variant": "v3", **verdict.as_dict()}
    found = document(said | {"report": said["report"] | {"rollout": None, "guardrails": [one]}}, 100.0)
    text = page(found)
    row = Cells(text).under("Metric")[0]
    assert row[:3] == ["v3: error_rate", "+5 pp", "+47.82 pp [+18.85, +74.37]"]
    assert "46 requests" in row[5]
    assert "or stood when they ejected their variant" in text


def test_the_lead_of_a_winner_is_shrunk(said: dict[str, Any]) -> None:
    lead = {"over": "v1", "difference": 0.1, "shrunk": 0.04, "interval": [0.01, 0.2]}
    stop = {"state": "asking", "winner": "v2", "by": "rule", "lead": lead}
    found = document(said | {"report": said["report"] | {"stop": stop, "metric": "correct"}}, 100.0)
    assert "v2 has won (asking, by rule), ahead of v1 by at most about 4 pp (observed: 10 pp, biased" in page(
        found
    )


def test_whose_differences_are_of_the_newest_epoch(said: dict[str, Any]) -> None:
    def limits(**other: Any) -> str:
        return " ".join(document(said | {"report": said["report"] | other}, 100.0)["limits"])

    assert "of the newest epoch in which two variants could be drawn" in limits()
    assert "newest epoch" not in limits(policy="bandit") + limits(unit="requests")


def test_a_shadow_that_is_gone_has_no_figures_of_its_responses(said: dict[str, Any]) -> None:
    agreement = {"old": {"answers": 4, "compared": 4, "rate": 0.5, "interval": [0.1, 0.9]}}
    found = document(said | {"report": said["report"] | {"agreement": agreement}}, 100.0)
    assert Cells(page(found)).under("Shadow")[0][3:] == ["not in the route"] * 3


def test_figures_keep_their_size() -> None:
    assert (report_text.loss(9.077e-17, "share"), report_text.loss(0.2766, "share")) == ("0 pp", "27.66 pp")
    assert (report_text.share(9.077e-17), report_text.share(-0.0)) == ("0 %", "0 %")
    assert [report_text.number(x) for x in (9999.7, 9999.4, 12345.6)] == ["10,000", "9999", "12,346"]
    assert report_text.number(5e-11) == "5e−11"  # of a metric whose values are that small
