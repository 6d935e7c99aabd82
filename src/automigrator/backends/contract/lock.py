"""A migration lock that is held, and what its last holder left to those who come after it."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from sqlalchemy.engine import Connection

from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.sides import Sides
from automigrator.backends.contract.snapshots import Snapshots
from automigrator.backends.contract.values import Sight, VersionTable
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


class Hold(ABC):
    """The migration lock of one target, held by this process, and the acts it allows.

    `snapshots` and `sides` are None where the backend offers none; a strategy that needs them
    is then refused in words.
    """

    leader: str
    """This process, as processes that wait are told of it."""
    waited_s: float
    """Seconds waited for the lock."""
    since: float
    """When this process began to look or to wait, on the clock of the record."""
    snapshots: Snapshots | None = None
    sides: Sides | None = None

    @abstractmethod
    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        """Read the heads under the lock.

        Raises LockLostError where the database is not the one that the lock protects.
        """

    @abstractmethod
    async def confirm(self, progress: str = "") -> None:
        """Tell how far the migration is. Raises LockLostError when the lock is no longer held."""

    async def until_lost(self) -> None:
        """Wait until the lock is no longer held, and raise LockLostError."""
        await asyncio.Event().wait()

    def hurry(self) -> None:
        """Shorten the waits for a silent server: somebody asked for the end."""

    def claim(self, connection: Connection) -> Callable[[], None]:
        """Mark a connection as this lock's: what it commits is the migration's.

        Returns the call that undoes it.
        """
        return lambda: None

    def blockers(self) -> AbstractAsyncContextManager[Callable[[], tuple[str, ...]]]:
        """Context manager: watch who holds what the migration waits for; the call names them."""
        return nullcontext(lambda: ())

    @abstractmethod
    async def last(self) -> Record | None:
        """Read the record that the last leader left."""

    @abstractmethod
    async def leave(self, record: Record | None) -> None:
        """Replace the record, whole or not at all; an `at` of 0 becomes now.

        Raises what writing raises.
        """

    async def declare(self, declared: Sequence[Declaration]) -> None:
        """Replace what the database declares, as `leave` does; none removes it."""

    async def recover(self) -> str | None:
        """Finish or undo what a killed leader began; return what was done, None for nothing."""
        return None

    async def close_journal(self) -> None:
        """Forget the journal of this run: its snapshot will not be put back any more."""
