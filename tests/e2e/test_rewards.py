"""Rewards in real life over a real gateway: missing ones, heavy users, lost users, a winner, a newcomer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from policies.allocate import allocate
from policies.allocation.bucketing import point, unit_hash
from policies.allocation.fixed_plans import Split
from tests.e2e.common import report, stays, wait_for
from tests.support.command import turnout
from tests.support.processes import GatewayProcess, ModelServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics:
  correct: {type: boolean}
  bought: {type: boolean, missing: zero, window: 10s}
backends: {digits: {url: "http://@BACKEND@"}}
routes:
  shop:
    match: {path: /shop}
    variants: {v1: &ready {backend: digits, rewrite: {path: /v2/health/ready}}, v2: *ready}
    policy: {type: split, weights: {v1: 1, v2: 1}}
  heavy:
    match: {path: /heavy}
    unit: {header: x-user}
    variants: {v1: *ready, v2: *ready}
    policy: {type: split, weights: {v1: 1, v2: 1}}
  lossy:
    match: {path: /lossy}
    timeouts: {first_byte: 10s}                # the test of the sample ratio waits for it
    unit: {header: x-user}
    variants: {v1: *ready, v2: *ready}
    policy: {type: split, weights: {v1: 1, v2: 1}}
  race:
    match: {path: /race}
    unit: {header: x-user}
    variants: {v1: *ready, v2: *ready@NEW@}
    policy:
      type: bandit
      metric: correct
      floor: 10%
      stop: {probability_best: 95%, min_samples: 10, then: ask}
      debut: {share: 10%, samples: 50}
"""


def text(server: ModelServerProcess, new: str = "") -> str:
    return CONFIG.replace("@BACKEND@", server.address).replace("@NEW@", new)


class Users:
    """Clients that send and report."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.client = httpx.Client(base_url=gateway.url, timeout=60)

    def ask(self, path: str, user: str = "") -> tuple[str, str]:
        """(variant, decision id)."""
        answer = self.client.get(path, headers={"x-user": user} if user else {})
        assert answer.status_code == 200, answer.text
        return answer.headers["x-variant"], answer.headers["x-decision-id"]

    def tell(self, items: list[tuple[str, str, Any]]) -> None:
        rows = [{"decision_id": d, "metric": m, "value": v} for d, m, v in items]
        answer = self.client.post("/-/feedback", json={"items": rows})
        assert answer.json()["rejected"] == []


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, model_server: ModelServerProcess
) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("life"), text(model_server), "--workers", "2") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def users(gateway: GatewayProcess) -> Iterator[Users]:
    """After all the traffic of the first three tests, so that their waits run side by side."""
    made = Users(gateway)
    sales = [made.ask("/shop") for _ in range(200)]
    made.tell([(d, "bought", True) for k, (_, d) in enumerate(sales) if k % 4 == 0])
    for k in range(40):
        made.tell([(made.ask("/heavy", f"user-{k}")[1], "correct", False)])
    made.tell([(made.ask("/heavy", "the busy one")[1], "correct", True) for _ in range(300)])
    table = allocate(Split.of({"v1": 1.0, "v2": 1.0}))
    for k in range(400):
        name = f"user-{k}"
        given = table.variants[table.pick(point(unit_hash(b"lossy", name.encode())))]
        if given == "v1" or k % 4 == 0:
            assert made.ask("/lossy", name)[0] == given
    yield made
    made.client.close()


def means(gateway: GatewayProcess, route: str, metric: str) -> list[Any]:
    return [one["rewards"][metric]["mean"] for one in report(gateway, route)["variants"].values()]


def test_what_is_missing_is_zero_when_the_window_is_over(gateway: GatewayProcess, users: Users) -> None:
    def bought() -> dict[str, Any]:
        found = [v["rewards"]["bought"] for v in report(gateway, "shop")["variants"].values()]
        return {k: sum(one[k] for one in found) for k in ("count", "missing", "waiting")}

    wait_for(lambda: bought() == {"count": 200, "missing": 150, "waiting": 0})
    # Either of two workers may answer, and the other may still show what it reported half a second ago.
    wait_for(lambda: all(0.1 < (mean or 0.0) < 0.45 for mean in means(gateway, "shop", "bought")))
    for one in report(gateway, "shop")["variants"].values():
        assert one["rewards"]["correct"]["count"] == 0


def test_a_busy_user_is_one_observation(gateway: GatewayProcess, users: Users) -> None:
    found = [v["rewards"]["correct"] for v in report(gateway, "heavy")["variants"].values()]
    assert sum(one["count"] for one in found) == 340
    assert sum(one["observations"] for one in found) == 41
    busy = max(found, key=lambda one: one["count"])
    assert busy["mean"] == pytest.approx(1 / busy["observations"])
    assert busy["interval"][1] < 0.5


def test_lost_users_are_an_alarm_and_a_busy_user_is_none(gateway: GatewayProcess, users: Users) -> None:
    def alarms(route: str) -> list[str]:
        return [alarm["code"] for alarm in report(gateway, route)["alarms"]]

    wait_for(lambda: alarms("lossy") == ["sample_ratio_mismatch"], 90)
    assert alarms("heavy") == []
    assert "in units" in report(gateway, "lossy")["alarms"][0]["message"]


def command(gateway: GatewayProcess, action: str) -> str:
    done = turnout("rollout", "race", action, "--url", gateway.url)
    return done.stdout + done.stderr


def test_a_winner_is_asked_about_handed_over_and_remembered(
    gateway: GatewayProcess, users: Users, model_server: ModelServerProcess
) -> None:
    assert "no winner yet" in command(gateway, "promote")

    def asked() -> bool:
        stop = report(gateway, "race")["stop"]
        return (stop["state"], stop["winner"], stop["command"]) == (
            "asking", "v2", "turnout rollout race promote",
        )  # fmt: skip

    # On a slow machine v1 is at its floor before it has the samples that the stop rule wants: then more come.
    for k in range(2000):
        variant, decision = users.ask("/race", f"user-{k}")
        users.tell([(decision, "correct", variant == "v2" or k % 3 == 0)])
        if k % 100 == 99 and k > 100 and asked():
            break
    # One response at a time: the worker that answers next may not have heard yet.
    wait_for(asked)
    assert command(gateway, "promote") == "race: handed over to v2\n"
    wait_for(lambda: report(gateway, "race")["allocation"] == {"v1": 0.0, "v2": 1.0})
    gateway.crash()
    gateway.start()
    wait_for(lambda: report(gateway, "race")["stop"]["state"] == "handed_over")
    # The leader may have published once more before it heard, and been killed then.
    handed_over = lambda: report(gateway, "race")["allocation"] == {"v1": 0.0, "v2": 1.0}  # noqa: E731
    wait_for(lambda: stays(handed_over, 3.0))
    # A newcomer begins the race anew, and small.
    gateway.write(text(model_server, ", v3: *ready"))
    wait_for(lambda: "v3" in report(gateway, "race")["allocation"])
    for _ in range(10):
        # The other worker may answer, and not have heard yet.
        assert report(gateway, "race")["allocation"].get("v3", 0.0) <= 0.1 + 1e-9
        time.sleep(0.2)
    wait_for(lambda: report(gateway, "race")["stop"]["state"] == "learning")
