"""What can be found out about a target beside its heads; only the last two calls change it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.record import Record
from automigrator.frozen import Frozen
from automigrator.printable import escaped
from automigrator.support.sizes import sized

TableName = tuple[str | None, str]

"""Schema and name; without a schema it is looked for where a connection would look."""


class Copy(Frozen):
    """A copy of the target that automigrator keeps; `kind` says why, `at` is UTC, `size` bytes."""

    place: str
    kind: str
    at: datetime | None
    size: int

    def __str__(self) -> str:
        since = f", since {self.at:%Y-%m-%d %H:%M:%S} UTC" if self.at is not None else ""
        return escaped(f"{self.kind} {self.place}: {sized(self.size)}{since}")

    def to_dict(self) -> dict[str, Any]:
        at = self.at.isoformat() if self.at is not None else None
        return {"place": self.place, "kind": self.kind, "at": at, "size": self.size}


class Debris(Frozen):
    """What may be left of half a revision.

    `provable` says that nothing is lost with it; `why` says what proves that, or what to do about
    it. `object` is what the database calls it.
    """

    what: str
    object: TableName
    provable: bool
    why: str
    rebuilds: bool = False
    """Whether `rebuild` can make it whole."""

    def __str__(self) -> str:
        return escaped(f"{self.what}: {'debris, as ' if self.provable else 'kept: '}{self.why}")

    def to_dict(self) -> dict[str, Any]:
        return {"what": self.what, "provable": self.provable, "why": self.why}


class Damage(Frozen):
    """What a check for damage came to."""

    found: str = ""
    """What is damaged, a sentence; "" where nothing is known to be."""
    unchecked: str = ""
    """What was not looked at, and who can; "" where all was, or the backend has no such check."""

    def to_dict(self) -> dict[str, Any]:
        return {"found": self.found, "unchecked": self.unchecked}


class Examiner(Protocol):
    """Looks closely at one target; every call is a look of its own."""

    async def unfinished(self) -> bool:
        """Whether a journal is open, where a look at the database itself fails."""

    async def declared(self) -> tuple[Declaration, ...]:
        """What was declared of the code that works with the database."""

    async def record(self) -> Record | None:
        """What the last leader left."""

    async def holder(self) -> str | None:
        """Who holds the migration lock now."""

    async def copies(self) -> tuple[Copy, ...]:
        """The snapshots and the data set aside that are kept beside the database."""

    async def damage(self) -> Damage:
        """Check the database for damage, as far as that takes no longer than a few seconds."""

    async def existing(self, tables: Sequence[TableName]) -> tuple[TableName, ...]:
        """Those of the tables that exist."""

    async def debris(self) -> tuple[Debris, ...]:
        """What half a revision leaves, each with what is known of it."""

    async def remove(self, debris: Debris) -> str | None:
        """Remove what is provably debris, under the lock; why not, where it could not be."""

    async def rebuild(self, debris: Debris) -> str | None:
        """Make whole what an applied revision made, under the lock; why not, if it could not be."""
