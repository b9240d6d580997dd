"""The command line against a running gateway and its record, as its user types it."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest

from backends.reference import digits
from gateway.commands.evaluate import _bounds
from gateway.commands.output import output_file
from gateway.commands.simulate_canary import assumed
from gateway.config.service import MetricConfig
from policies.rollout.verdicts import Guardrail
from tests.e2e.common import replay, report, wait_for
from tests.support import command
from tests.support.processes import GatewayProcess, ModelServerProcess

CONFIG = """
listen: 127.0.0.1:@PORT@
store: sqlite:///@DIR@/turnout.db
metrics:
  correct: {type: boolean}
backends:
  digits: {url: "http://@BACKEND@", ejection: {silence: 0s}} # a busy machine is silent too
routes:
  digits:
    match: {path: /v2/models/digits}
    unit: {header: x-user-id}
    variants:
      v1: {backend: digits, rewrite: {path: /v2/models/digits/versions/1}}
      v3: {backend: digits, rewrite: {path: /v2/models/digits/versions/3}}
    policy: {type: split, weights: {v1: 1, v3: 1}}
"""


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, model_server: ModelServerProcess, held_out: digits.Digits
) -> Iterator[GatewayProcess]:
    import asyncio

    text = CONFIG.replace("@BACKEND@", model_server.address)
    with GatewayProcess(tmp_path_factory.mktemp("commands"), text) as found:
        asyncio.run(replay(found.url, held_out, 600))
        wait_for(lambda: sum(v["assigned"] for v in report(found)["variants"].values()) == 600)
        yield found


def turnout(*words: str, code: int = 0) -> str:
    done = command.turnout(*words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def turnout_json(*words: str, code: int = 0) -> Any:
    return json.loads(turnout(*words, "--json", code=code))


def test_status(gateway: GatewayProcess) -> None:
    said = turnout("status", "digits", "--url", gateway.url)
    assert "digits: split, epoch 1, v1 50.0%, v3 50.0%" in said
    assert "correct 0." in said
    assert turnout_json("status", "--url", gateway.url)["routes"][0]["route"] == "digits"


def test_a_gateway_that_is_not_there(gateway: GatewayProcess) -> None:
    assert "name it with --url" in turnout("status", "--url", "http://127.0.0.1:9", code=1)


def test_a_rollout_of_a_route_without_one(gateway: GatewayProcess) -> None:
    assert "has no rollout" in turnout("rollout", "digits", "promote", "--url", gateway.url, code=1)
    assert "write 'set 5%' or 'set 0.05'" in turnout(
        "rollout", "digits", "set", "500%", "--url", gateway.url, code=1
    )
    assert "write 'set 5%' or 'set 0.05'" in turnout("rollout", "digits", "set", "--url", gateway.url, code=1)


@pytest.mark.parametrize("action", ["promote", "rollback", "pause", "resume"])
def test_only_set_takes_a_weight(action: str) -> None:
    """`promote 5%` promoted all the way."""
    nowhere = "http://127.0.0.1:9"  # nothing is asked
    said = turnout("rollout", "digits", action, "5%", "--url", nowhere, code=2)
    assert f"{action} takes no weight; write 'set 5%'" in said


def test_explain_tells_what_the_gateway_does(gateway: GatewayProcess) -> None:
    for user in ("ada", "grace", "linus", "guido"):
        found = turnout_json("explain", "--config", str(gateway.path), "--route", "digits", "--unit", user)
        answer = httpx.get(f"{gateway.url}/v2/models/digits/ready", headers={"x-user-id": user})
        assert answer.headers["x-variant"] == found["variant"]
        assert found["probability"] == 0.5
        assert found["epoch"] == 1


def test_commands_read_the_configuration_of_the_directory_and_its_only_route(
    gateway: GatewayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(gateway.path.parent)
    policy = tmp_path / "policy.yaml"
    policy.write_text("{v1: 1, v3: 0}")
    assert turnout_json("explain", "--unit", "ada")["variant"] in ("v1", "v3")
    assert turnout_json("export", "--out", str(tmp_path / "all.jsonl"))["rows"] >= 600
    assert turnout_json("evaluate", "--metric", "correct", "--policy", str(policy))["route"] == "digits"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_export(gateway: GatewayProcess, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"record.{ending}"
    done = turnout_json("export", "--config", str(gateway.path), "--out", str(path))
    if ending == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    elif ending == "csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    assert done["rows"] == len(rows) >= 600
    rewarded = [row for row in rows if row["reward_correct"] not in (None, "")]
    assert len(rewarded) == 600
    assert {row["assigned"] for row in rows} == {"v1", "v3"}
    assert all(float(row["propensity"]) == 0.5 for row in rows)


def test_evaluate_agrees_with_what_was_seen(gateway: GatewayProcess, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("{v1: 90%, v3: 10%}")
    words = (
        "evaluate",
        "--config",
        str(gateway.path),
        "--route",
        "digits",
        "--metric",
        "correct",
        "--policy",
        str(policy),
    )
    said = turnout_json(*words)
    assert said["policy"] == {"shares": {"v1": 0.9, "v3": 0.1}, "note": ""}
    found = said["metrics"]["correct"]
    assert found["refusal"] is None
    means = {n: v["rewards"]["correct"]["mean"] for n, v in report(gateway)["variants"].items()}
    truth = 0.9 * means["v1"] + 0.1 * means["v3"]
    for estimate in found["estimates"]:
        if estimate["name"] in ("snips", "dr", "dm"):
            assert estimate["value"] == pytest.approx(truth, abs=0.02)
            assert estimate["interval"][0] < truth < estimate["interval"][1]
    gain = next(e for e in found["estimates"] if e["name"] == "gain")
    more = f"{abs(gain['value']):.4g} {'more' if gain['value'] >= 0 else 'less'} correct per decision"
    assert f"the policy would have earned {more} than was earned (" in turnout(*words)


def test_evaluate_refuses_what_the_record_cannot_tell(gateway: GatewayProcess, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    base = ("evaluate", "--config", str(gateway.path), "--route", "digits", "--policy", str(policy))
    policy.write_text("{v9: 100%}")
    found = turnout_json(*base, "--metric", "correct", code=1)["metrics"]["correct"]
    assert "no rewarded decision for v9" in found["refusal"]
    assert found["estimates"] == []
    policy.write_text("{v1: 50%}")
    assert "sum to 0.5" in turnout(*base, "--metric", "correct", code=1)
    for wrong in ("{type: split, weights: {v1: 1, v2: 3}}", "{v1: lots}", "[v1]"):
        policy.write_text(wrong)
        assert f"{policy}: " in (said := turnout(*base, "--metric", "correct", code=1))
        assert "write shares by variant, such as" in said
    policy.write_text("{v1: 100%}")
    assert "it has: correct" in turnout(*base, "--metric", "unheard-of", code=1)
    nowhen = (*base, "--metric", "correct", "--until", "2020-01-01T00:00:00Z")
    assert "no decision of the route 'digits'" in turnout(*nowhen, code=1)
    record = str(gateway.path.with_name("turnout.db"))
    none = turnout("evaluate", "--record", record, "--policy", str(policy), "--metric", "correct", code=1)
    assert "write --route" in none


def test_evaluate_the_policy_of_a_configuration_with_several_metrics(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    text = gateway.path.read_text()
    other.write_text(
        text.replace("type: split, weights: {v1: 1, v3: 1}", "type: bandit, metric: correct").replace(
            f"sqlite:///{gateway.folder}", "${NOT_SO_SECRET:-sqlite:///x}"
        )
    )
    words = ("evaluate", "--config", str(gateway.path), "--route", "digits", "--policy", str(other))
    found = turnout_json(*words, "--metric", "correct", "--metric", "correct")
    assert list(found["metrics"]) == ["correct"]
    assert found["policy"]["shares"] == {"v1": 0.5, "v3": 0.5}
    assert "a bandit begins" in found["policy"]["note"]
    gain = next(e for e in found["metrics"]["correct"]["estimates"] if e["name"] == "gain")
    low, high = gain["interval"]  # which leaves out the truth once in twenty times
    assert abs(gain["value"]) < 2 * (high - low), "the same shares as those that ran"


@pytest.mark.parametrize(
    ("metric", "bounds"),
    [
        ({"type": "boolean"}, (0.0, 1.0)),
        ({"type": "fraction", "minimum": 0.5}, (0.5, 1.0)),
        ({"type": "count", "cap": 5}, (0.0, 5.0)),
        ({"type": "real", "minimum": 0, "maximum": 1e6}, None),
    ],
)
def test_limits_of_what_is_accepted_widen_no_interval_of_evaluate(
    metric: dict[str, Any], bounds: tuple[float, float] | None
) -> None:
    """Of 1,000 values around 5, the interval reached to 3,687."""
    assert _bounds(MetricConfig(**metric)) == bounds


def test_what_needs_features_says_so_where_there_are_none(gateway: GatewayProcess, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    linear = "type: bandit, algorithm: linear, metric: correct, features: {tier: {header: x-tier}}"
    other.write_text(gateway.path.read_text().replace("type: split, weights: {v1: 1, v3: 1}", linear))
    words = ("--config", str(gateway.path), "--route", "digits")
    said = turnout("evaluate", *words, "--policy", str(other), "--metric", "correct", code=1)
    assert "no rewarded decision of the earlier half of the record has features" in said
    assert "looks at no features" in turnout("explain", *words, "--feature", "tier=1", code=1)
    said = turnout("explain", "--config", str(other), "--route", "digits", "--feature", "teir=1", code=1)
    assert "'teir=1' is not NAME=VALUE of a declared feature; write one of tier" in said
    told = turnout_json("explain", "--config", str(other), "--route", "digits", "--feature", "tier=0.25")
    assert (told["features"], told["shares"]) == ({"tier": 0.25}, {"v1": 0.5, "v3": 0.5})
    assert any("nothing was learned about these features yet" in line for line in told["why"])


def test_a_record_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "nothing.db"
    said = turnout("export", "--record", f"sqlite:///{path}", "--out", str(tmp_path / "x.csv"), code=1)
    assert "there is no record" in said
    assert list(tmp_path.iterdir()) == []


def test_simulate_a_bandit_and_a_canary(tmp_path: Path) -> None:
    example = Path(__file__).parent.parent.parent / "config.example.yaml"
    plot = tmp_path / "regret.svg"
    words: tuple[str, ...] = (
        "simulate", "--config", str(example), "--route", "digits", "--world", "stationary", "--requests",
        "2000", "--repetitions", "10",
    )  # fmt: skip
    found = turnout_json(*words, "--plot", str(plot))
    (world,) = found["worlds"]
    assert world["regret"]["value"] < world["even_regret"]
    said = turnout(*words, "--repetitions", "1")
    assert "true means, unless the world changes them: v1 0.1, v2 0.15 (--means sets others)" in said
    assert "settled after: requests until" in said
    assert "<svg" in plot.read_text()
    canary = tmp_path / "canary.yaml"
    canary.write_text(
        re.sub(
            r" {6}type: bandit.*\n {6}metric: correct\n {6}floor: 1%.*\n",
            "      type: canary\n      baseline: v1\n      candidate: v2\n"
            "      stages: [{weight: 20%, for: 1m}]\n"
            "      guardrails: [{metric: error_rate, max_increase: 1%}]\n",
            example.read_text(),
            count=1,
        )
    )
    found = turnout_json(
        *("simulate", "--config", str(canary), "--route", "digits", "--world", "failing"),
        *("--requests", "60000", "--repetitions", "5"),
    )
    assert found["worlds"][0]["ended"]["rolled_back"]["value"] > 0.5
    assert found["notes"] == []
    assert found["worlds"][0]["assumed"] == (
        "failing: 3.0% errors, 1% client errors, median latency 20 ms, 90% good "
        "(baseline: 0.2%, 1%, 20 ms, 90%); "
        "beyond your limits: error_rate"
    )
    words = ("simulate", "--config", str(canary), "--route", "digits", "--repetitions", "2")
    sound = turnout_json(*words, "--world", "sound")["worlds"][0]
    assert sound["ended"]["promoted"]["value"] == 1.0, "by default it runs until it should be over"
    assert "--plot means nothing to a canary" in turnout(*words, "--plot", "x.png", code=1)


@pytest.mark.parametrize(
    ("rail", "candidate", "within"),
    [
        (Guardrail("error_rate", max_increase=0.05), "failing", True),
        (Guardrail("error_rate", max_ratio=2.0), "failing", False),
        (Guardrail("latency_p50", max_increase=14.0), "slower", False),
        (Guardrail("latency_p50", max_increase=16.0), "slower", True),
        (Guardrail("latency_p99", max_increase=16.0), "slower", False),
        (Guardrail("latency_p99", max_ratio=1.8), "slower", True),
        (Guardrail("correct", max_decrease=0.05), "less accurate", False),
        (Guardrail("correct", min_ratio=0.9), "less accurate", True),
        (Guardrail("wrong", max_increase=0.05), "less accurate", False),
        (Guardrail("error_rate", max_increase=0.0), "better", True),
    ],
)
def test_simulate_says_what_is_within_the_limits(rail: Guardrail, candidate: str, within: bool) -> None:
    said = assumed(candidate, [rail]).rpartition("; ")[2]
    assert said == ("within your limits" if within else f"beyond your limits: {rail.metric}")


UNSEEN = """
metrics: {spent: {type: real}}
backends: {a: {url: "http://127.0.0.1:1"}}
routes:
  paying:
    match: {path: /a}
    variants: {v1: {backend: a}, v2: {backend: a}}
    policy:
      type: canary
      baseline: v1
      candidate: v2
      stages: [{weight: 50%, for: 1m}]
      guardrails: [{metric: error_rate, max_increase: 5%}, {metric: spent, max_decrease: 0.1}]
  alone:
    match: {path: /b}
    variants: {v1: {backend: a}}
    policy: {type: single, variant: v1}
"""


def test_a_policy_nested_without_end_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "turnout.yaml").write_text(UNSEEN)
    (tmp_path / "turnout.db").touch()
    files = ("--config", str(tmp_path / "turnout.yaml"), "--policy", str(tmp_path / "policy.yaml"))
    said = turnout("evaluate", *files, "--route", "paying", "--metric", "spent", code=1)
    assert "there is no such file; write shares by variant, such as" in said
    (tmp_path / "policy.yaml").write_text("[" * 5000)
    said = turnout("evaluate", *files, "--route", "paying", "--metric", "spent", code=1)
    assert "policy.yaml:1:" in said
    assert said.count("\n") == 1
    (tmp_path / "policy.yaml").write_text("{on: 20%, off: 20%}")
    said = turnout("evaluate", *files, "--route", "paying", "--metric", "spent", code=1)
    assert "the shares sum to 0.4" in said


def test_a_pipe_or_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    """A file took the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with output_file(pipe) as target:
            target.write(b"whole")
        assert os.read(reader, 10) == b"whole"
    finally:
        os.close(reader)
    assert [path.name for path in tmp_path.iterdir() if path.is_fifo()] == ["pipe"]


def test_two_commands_that_write_one_file_leave_a_whole_one(tmp_path: Path) -> None:
    """The first to end put the half of the other's in place; what a killed one left goes with the next."""
    out = tmp_path / "record.csv"
    left = tmp_path / ".record.csv.0123abcd.part"
    left.touch()
    first, second = output_file(out), output_file(out)
    one = first.__enter__()
    assert left.exists(), "its command may just have made it"
    for part in tmp_path.iterdir():
        os.utime(part, (0, 0))
    other = second.__enter__()
    other.write(b"half")
    one.write(b"whole")
    first.__exit__(None, None, None)
    assert out.read_bytes() == b"whole"
    other.write(b" and half")
    second.__exit__(None, None, None)
    assert out.read_bytes() == b"half and half"
    assert list(tmp_path.iterdir()) == [out]


def test_simulate_says_what_it_can_not_simulate(tmp_path: Path) -> None:
    """A real metric is simulated in its own unit, around means that the caller gives."""
    file = tmp_path / "turnout.yaml"
    file.write_text(UNSEEN)
    words = ("simulate", "--config", str(file), "--repetitions", "1")
    options = (
        "--route", "paying", "--requests", "20000", "--rate", "20", "--sd", "0.5", "--means", "2.5,2.1",
    )  # fmt: skip
    found = turnout_json(*words, *options, "--world", "less accurate", "--world", "sound")
    worse, sound = found["worlds"]
    assert worse["ended"]["rolled_back"]["value"] == 1.0
    assert "spent 2.1 on average (baseline: 2.5, standard deviation 0.5, Gamma)" in worse["assumed"]
    assert worse["assumed"].endswith("beyond your limits: spent")
    assert sound["assumed"].endswith("within your limits")
    assert "rolled_back" not in sound["ended"]
    for means in ("2.5", "1,nan", "inf,1"):
        assert "such as 2.5,2.1" in turnout(*words, "--route", "paying", "--means", means, code=1)
    assert "nothing to simulate" in turnout(*words, "--route", "alone", code=1)
    flood = ("--route", "paying", "--world", "sound", "--rate", "1e13")
    assert "do not fit into memory" in turnout(*words, *flood, code=1)


def test_simulate_takes_a_relative_decrease_for_one_of_good_responses(tmp_path: Path) -> None:
    file = tmp_path / "turnout.yaml"
    right = "metrics: {spent: {type: boolean}}\n" + UNSEEN.partition("}}\n")[2]
    file.write_text(right.replace("max_decrease: 0.1", "max_relative_decrease: 20%"))
    words = (
        "simulate", "--config", str(file), "--route", "paying", "--repetitions", "1", "--world", "better",
    )  # fmt: skip
    (better,) = turnout_json(*words, "--requests", "20000", "--rate", "20")["worlds"]
    assert better["assumed"].endswith("within your limits")
    assert "rolled_back" not in better["ended"]


LINEAR = """
metrics: {good: {type: boolean}, cost: {type: real, goal: minimize}}
backends: {a: {url: "http://127.0.0.1:1"}}
routes:
  seeing:
    match: {path: /a}
    variants: {small: {backend: a}, large: {backend: a}}
    policy:
      type: bandit
      algorithm: linear
      metric: good
      features: {tier: {header: x-tier, values: [free, paid]}, length: {json: prompt.length, maximum: 4000}}
  several:
    match: {path: /b}
    variants: {small: {backend: a}, large: {backend: a}}
    policy: {type: bandit, utility: {good: 1, cost: 0.2}}
"""


def test_simulate_a_bandit_that_looks_at_features(tmp_path: Path) -> None:
    path = tmp_path / "linear.yaml"
    path.write_text(LINEAR)
    words = (
        "simulate", "--config", str(path), "--route", "seeing", "--requests", "2000", "--repetitions", "5",
    )  # fmt: skip
    plot = tmp_path / "regret.svg"
    found = turnout_json(
        *words, "--world", "features decide", "--world", "features irrelevant", "--plot", str(plot)
    )
    decide, irrelevant = found["worlds"]
    assert decide["regret_single"]["high"] < 0 <= irrelevant["regret_single"]["low"]
    assert set(decide["shares"]) == {"small", "large"}
    assert "<svg" in plot.read_text()
    assert "beyond the best single" in turnout(*words, "--world", "preferences turn")
    assert "known: features decide" in turnout(*words, "--world", "stationary", code=1)


def test_simulate_one_metric_of_a_utility(tmp_path: Path) -> None:
    path = tmp_path / "several.yaml"
    path.write_text(LINEAR)
    words = (
        "simulate", "--config", str(path), "--route", "several", "--requests", "500", "--repetitions", "3",
    )  # fmt: skip
    assert "--metric with one of: good, cost" in turnout(*words, code=1)
    named = (*words, "--world", "stationary", "--means", "5,4", "--sd", "0.1")
    (world,) = turnout_json(*named, "--metric", "cost")["worlds"]
    assert world["shares"]["large"] > 0.9, "less is better"
