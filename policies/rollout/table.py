"""The life of a canary, as a table.

A rollout is in one of six states. `running`: the candidate has a stage's share, and the guardrails are
watched until the stage is shown to be good, bad, or cannot be decided; or, after the last stage, a bandit
over the two decides on the share (`compete`), until its stop rule names a winner. `waiting`: a stage is
passed, and a person is to confirm the next one or roll back; or all stages are passed, or the bandit has a
winner, and a person is to promote or roll back. `paused`: nothing goes forward by itself; a bandit's share
is held. `halted`: the baseline is sick, so there is nothing to compare with, and a person must look.
`promoted`: the candidate has all traffic; for the time of the bake it is still watched.
`rolled_back`: the baseline has all traffic.

Everything that happens is a *signal*. Some are read off a tick (time, sample counts and verdicts), some
are commands of people, one is a change of configuration. `TABLE` says for each state which signals mean
something and where they lead; a signal of a tick that is not listed changes nothing, a command that is
not listed is refused, with the list of what is possible. Two rules hold in every state, and can be read
off the table: nothing but a person or a new configuration ever leads out of `rolled_back` or `halted`,
and the verdict `error` (could not look) never leads to `rolled_back`.

The engine that reads the table is `policies.rollout.machine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class Status(StrEnum):
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    HALTED = "halted"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


class Signal(StrEnum):
    # read off a tick; the first that applies counts, in the order of `machine._signals`
    FAIL = "fail"
    """A guardrail is shown to be breached."""
    SICK = "sick"
    """The baseline is shown to be the sick one."""
    ERROR = "error"
    """A guardrail could not be looked at."""
    PASSED = "passed"
    """Time, samples and all verdicts are there; another stage follows."""
    FINISHED = "finished"
    """The last stage is passed, and the plan says to promote."""
    COMPLETE = "complete"
    """A stage is passed and the next one needs a confirmation, or the last stage is passed or the bandit has a winner,
    and the plan says to wait for a person."""
    COMPETE = "compete"
    """The last stage is passed, and the plan says that a bandit over candidate and baseline goes on."""
    LOST = "lost"
    """The bandit's winner is the baseline. (Where it is the candidate, that is `finished`.)"""
    OPEN = "open"
    """The bandit asked about a winner and has none any more, or the plan asks for no confirmation any more."""
    STALE = "stale"
    """Still undecided when the patience for the stage is over."""
    BAKED = "baked"
    """The time of the bake is over."""
    # commands
    PAUSE = "pause"
    RESUME = "resume"
    CONFIRM = "confirm"
    """The stage that waits for it may start."""
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    SET = "set"
    RESTART = "restart"
    """A new build under the candidate's name: from the first stage, without the evidence of the last."""
    # configuration
    CONFIG = "config"
    """The plan has changed, for the same candidate and baseline."""
    RENEWED = "renewed"
    """The plan is for another candidate or baseline: a new rollout."""


COMMANDS: Final = (
    Signal.PAUSE,
    Signal.RESUME,
    Signal.CONFIRM,
    Signal.PROMOTE,
    Signal.ROLLBACK,
    Signal.SET,
    Signal.RESTART,
)


class Action(StrEnum):
    """What becomes of the candidate's weight and of the clock of the stage."""

    KEEP = "keep"
    NEXT = "next"
    CONTINUE = "continue"
    """Back to the stage: the time of the pause doesn't count, patience starts again."""
    RESTART = "restart"
    FULL = "full"
    ZERO = "zero"
    COMPETE = "compete"
    """A bandit decides on the share from now on."""
    GIVEN = "given"
    """The weight that the command names."""
    ADAPT = "adapt"
    """The stage's weight according to the changed plan."""
    ACCEPT = "accept"
    """A person accepts what holds the stage."""
    SETTLE = "settle"
    """The bake is over: the holdback ends, and nothing is watched any more."""


class Rule(NamedTuple):
    target: Status
    action: Action


_BACK = Rule(Status.ROLLED_BACK, Action.ZERO)
_HALT = Rule(Status.HALTED, Action.KEEP)
_PAUSE = Rule(Status.PAUSED, Action.KEEP)
_FULL = Rule(Status.PROMOTED, Action.FULL)
_GIVEN = Rule(Status.PAUSED, Action.GIVEN)
_RENEW = Rule(Status.RUNNING, Action.RESTART)

TABLE: Final[Mapping[Status, Mapping[Signal, Rule]]] = {
    Status.RUNNING: {
        Signal.FAIL: _BACK,
        Signal.SICK: _HALT,
        Signal.ERROR: _PAUSE,
        Signal.PASSED: Rule(Status.RUNNING, Action.NEXT),
        Signal.FINISHED: _FULL,
        Signal.COMPLETE: Rule(Status.WAITING, Action.KEEP),
        Signal.COMPETE: Rule(Status.RUNNING, Action.COMPETE),
        Signal.LOST: _BACK,
        Signal.STALE: _PAUSE,
        Signal.PAUSE: _PAUSE,
        # Only where client errors hold the stage: `machine.possible`.
        Signal.RESUME: Rule(Status.RUNNING, Action.ACCEPT),
        Signal.PROMOTE: _FULL,
        Signal.ROLLBACK: _BACK,
        Signal.SET: _GIVEN,
        Signal.CONFIG: Rule(Status.RUNNING, Action.ADAPT),
        Signal.RESTART: _RENEW,
        Signal.RENEWED: _RENEW,
    },
    Status.WAITING: {
        Signal.FAIL: _BACK,
        Signal.SICK: _HALT,
        Signal.OPEN: Rule(
            Status.RUNNING, Action.ADAPT
        ),  # the edit may have removed the gate, or moved the weight
        # Only where a stage waits for it: `machine.possible`.
        Signal.CONFIRM: Rule(Status.RUNNING, Action.NEXT),
        Signal.PAUSE: _PAUSE,
        Signal.PROMOTE: _FULL,
        Signal.ROLLBACK: _BACK,
        Signal.SET: _GIVEN,
        Signal.RESTART: _RENEW,
        Signal.RENEWED: _RENEW,
    },
    Status.PAUSED: {
        Signal.FAIL: _BACK,
        Signal.SICK: _HALT,
        Signal.RESUME: Rule(Status.RUNNING, Action.CONTINUE),
        Signal.PROMOTE: _FULL,
        Signal.ROLLBACK: _BACK,
        Signal.SET: _GIVEN,
        Signal.RESTART: _RENEW,
        Signal.RENEWED: _RENEW,
    },
    Status.HALTED: {
        Signal.RESUME: Rule(Status.RUNNING, Action.CONTINUE),
        Signal.PROMOTE: _FULL,
        Signal.ROLLBACK: _BACK,
        Signal.SET: _GIVEN,
        Signal.RESTART: _RENEW,
        Signal.RENEWED: _RENEW,
    },
    Status.PROMOTED: {
        Signal.FAIL: _BACK,
        Signal.BAKED: Rule(Status.PROMOTED, Action.SETTLE),
        Signal.ROLLBACK: _BACK,
        Signal.SET: _GIVEN,
        Signal.RESTART: _RENEW,
        Signal.RENEWED: _RENEW,
    },
    Status.ROLLED_BACK: {
        Signal.RESUME: _RENEW,
        Signal.PROMOTE: _FULL,
        Signal.SET: _GIVEN,
        Signal.RESTART: _RENEW,
        Signal.RENEWED: _RENEW,
    },
}
