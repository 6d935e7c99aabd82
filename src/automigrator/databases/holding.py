"""A migration lock that is held, and what its last holder left to those who waited for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from automigrator.errors import AutomigratorError


class LockLostError(AutomigratorError):
    """Raised when another process may hold the lock by now; what was not committed is undone."""


@dataclass(frozen=True, slots=True)
class Record:
    """How a leader ended that did not reach the wanted heads.

    `plan` is what it tried, `at` seconds since the epoch on the clock of whatever keeps the
    record, `failures` are as in a report's `to_dict`.
    """

    plan: str
    outcome: Literal["failed", "degraded"]
    leader: str
    at: float
    failures: tuple[Mapping[str, Any], ...]

    def dumped(self) -> str:
        return json.dumps(asdict(self))


def loaded(text: str | None) -> Record | None:
    """What `dumped` made; None for anything else, as a record only saves work."""
    try:
        data = json.loads(text or "")
        return Record(
            str(data["plan"]),
            "degraded" if data["outcome"] == "degraded" else "failed",
            str(data["leader"]),
            float(data["at"]),
            tuple(dict(failure) for failure in data["failures"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


class Hold(Protocol):
    """The lock of one target, held by this process."""

    leader: str
    """This process, as those who wait are told of it."""
    waited_s: float
    since: float
    """When this process began to look or to wait, on the clock of the record."""

    async def confirm(self, progress: str = "") -> None:
        """Say how far the migration is. Raises LockLostError when the lock is no longer held."""

    async def until_lost(self) -> None:
        """Wait until the lock is no longer held. Raises LockLostError then."""

    async def last(self) -> Record | None:
        """What the last leader left."""

    async def leave(self, record: Record | None) -> None:
        """Replace what the last leader left; `record.at` is set to now."""
