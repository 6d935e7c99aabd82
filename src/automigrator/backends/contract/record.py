"""What a leader that did not reach the wanted heads leaves to those who come after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from automigrator.failure import State

_YEAR_9000 = 221845392000.0

"""What comes later is no time that could be told, with the rest after it."""

Ended = Literal["begun", "failed", "degraded"]

"""`begun` stays where a leader died before it could say more."""


@dataclass(frozen=True, slots=True)
class FailedStarts:
    """Starts in a row that failed or died: times as in `Record`, of the first and the last."""

    count: int = 0
    since: float = 0.0
    last: float = 0.0


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a leader that did not reach the wanted heads, and of those before it.

    `plan` is what it tried, `at` seconds since the epoch on the clock of whatever keeps the
    record, `failures` are as in a report's `to_dict`, `state` is what it left behind.
    """

    plan: str
    outcome: Ended
    leader: str
    failures: tuple[Mapping[str, Any], ...] = ()
    state: State = "clean"
    starts: FailedStarts = field(default_factory=FailedStarts)
    at: float = 0.0

    def dumped(self) -> str:
        return json.dumps(asdict(self))


def loaded(text: str | None) -> Record | None:
    """What `dumped` made; None for anything else, as a record only saves work."""
    try:
        data = json.loads(text or "")
        starts = data["starts"]
        if data["outcome"] not in get_args(Ended) or data["state"] not in get_args(State):
            return None
        record = Record(
            str(data["plan"]),
            data["outcome"],
            str(data["leader"]),
            tuple(dict(failure) for failure in data["failures"]),
            data["state"],
            FailedStarts(int(starts["count"]), float(starts["since"]), float(starts["last"])),
            float(data["at"]),
        )
        times = (record.starts.since, record.starts.last, record.at)
        return record if all(0 <= each < _YEAR_9000 for each in times) else None
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
