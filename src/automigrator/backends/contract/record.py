"""What a leader that did not reach the wanted heads leaves to those who come after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from automigrator.failure import Failure, State
from automigrator.frozen import Frozen
from automigrator.support import json_object

Ended = Literal["begun", "failed", "degraded"]

"""`begun` stays where a leader died before it could say more."""


class FailedStarts(Frozen):
    """Starts in a row that failed or died: times as in `Record`, of the first and the last.

    Raises ValueError for a count that is none.
    """

    count: int = 0
    since: float = 0.0
    last: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is {self.count}")


class Record(Frozen):
    """What became of a leader that did not reach the wanted heads, and of those before it.

    `plan` is what it tried, `at` seconds since the epoch on the clock of whatever keeps the
    record, `failures` are as in a report's `to_dict`, `state` is what it left behind. `first`:
    the database was empty when the first of these leaders began; False where nobody noted it.
    `damaged`: a look at the database after the failure found damage; False likewise.
    `start` names the start that the leader belonged to, where it had a name.
    """

    plan: str
    outcome: Ended
    leader: str
    failures: tuple[Mapping[str, Any], ...] = ()
    state: State = "clean"
    starts: FailedStarts = FailedStarts()
    at: float = 0.0
    first: bool = False
    damaged: bool = False
    start: str = ""

    @property
    def last_failure(self) -> Failure | None:
        """The last of the failures, in the state that the leader left; None without any."""
        if not self.failures:
            return None
        return Failure.from_dict(self.failures[-1])._replace(state=self.state)

    def dumped(self) -> str:
        return json_object.dumped(self)


def newest(texts: Iterable[str | None]) -> Record | None:
    """The latest of the records that these texts are."""
    return max(filter(None, map(loaded, texts)), key=lambda record: record.at, default=None)


def loaded(text: str | None) -> Record | None:
    """What `dumped` made; None for anything else, as a record only saves work."""
    try:
        data = json_object.parsed(text)
        record = json_object.read(Record, data)
        for failure in record.failures:
            Failure.from_dict(failure)
    except ValueError:
        return None
    known = Record.fields().keys() - {"first", "damaged", "start"}
    starts = FailedStarts.fields().keys()
    whole = known <= data.keys() and starts <= data["starts"].keys()
    return record if whole else None
