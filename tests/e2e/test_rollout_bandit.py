"""One policy from shadow through canary to bandit and its end, over real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends.reference import digits
from tests.e2e.common import replay, report, wait_for
from tests.e2e.test_rollout import config, good, trail
from tests.support.processes import GatewayProcess, ModelServerProcess

BANDIT = """      bake: 60s
      gate: {agreement: 10%, min_samples: 30}
      on_success: bandit
      bandit: {metric: correct, floor: 5%, stop: {probability_best: 99%, min_samples: 40, then: single}}"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("baseline", "candidate", "last", "winner"),
    [(3, 2, "finished→promoted", "v2"), (2, 3, "lost→rolled_back", "v1")],
)
async def test_from_shadow_through_canary_and_bandit_to_its_end(
    tmp_path: Path,
    model_server: ModelServerProcess,
    held_out: digits.Digits,
    baseline: int,
    candidate: int,
    last: str,
    winner: str,
) -> None:
    text = config(
        model_server,
        candidate=good(candidate),
        stages="[{weight: 30%, for: 1s, min_samples: 5}]",
        rails="[{metric: error_rate, max_increase: 60%}]",
    )
    text = text.replace("versions/1", f"versions/{baseline}").replace("      bake: 60s", BANDIT)
    phases: list[str] = []
    with GatewayProcess(tmp_path, text) as gateway:
        assert report(gateway)["shadows"] == {"v2": 1.0}
        async with asyncio.timeout(120):
            while (found := report(gateway))["rollout"]["state"] == "running":
                if found["rollout"]["phase"] not in phases:
                    phases.append(found["rollout"]["phase"])
                    if phases[-1] == "bandit":
                        gateway.kill()  # a restart remembers
                        gateway.start()
                        assert report(gateway)["rollout"]["phase"] == "bandit"
                await replay(gateway.url, held_out, 20)
        assert phases in (["shadow", "canary", "bandit"], ["shadow", "bandit"])  # the canary takes a second
        assert found["allocation"][winner] > 0.94
        assert winner in found["rollout"]["reason"]
        assert found["variants"][winner]["probability_best"] > 0.95
        wait_for(lambda: trail(gateway)[-3:] == ["passed→running", "compete→running", last])
