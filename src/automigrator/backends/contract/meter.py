"""Measures what revisions do to a copy, and how the application uses what they would lock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from automigrator.measurement import StatementMeasured, Waits

Locks = Mapping[str, tuple[str, tuple["Waits", ...]]]
"""By relation: the strongest mode in which it is locked, and who waits for that."""


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Look(NamedTuple):
    """What the session's open transaction has done so far; names are those from before it."""

    transaction: Hashable = None
    """Equal for two looks into the same transaction."""
    locks: Locks = NOTHING
    rows: Mapping[str, int] | None = None
    """By relation: rows written; None where only the driver counts them."""
    scans: Mapping[str, int] = NOTHING
    """By relation: scans from its beginning to its end."""
    rewritten: frozenset[str] = frozenset()
    """Relations whose every row was written anew since the meter began."""
    size: int | None = None
    """Bytes of the whole database, where that was asked for."""
    log_bytes: int = 0
    """The position in the server's log."""
    lock_timeout_s: float = 0.0


class Watched(NamedTuple):
    """What was seen of a statement outside a transaction while it ran."""

    locks: Locks = NOTHING
    looks: int = 0
    """How often it was looked at; 0: it was too short."""
    rewritten: frozenset[str] = frozenset()
    lock_timeout_s: float = 0.0


class Meter(ABC):
    """Measures one database on the side; what was made since the meter began is nobody's yet.

    `look` and `watch` are called in env.py's thread, outside SQLAlchemy's own calls.
    """

    size: int = 0
    """Bytes of the database when the meter began."""
    log_bytes: int = 0
    """The position in the server's log when the meter began."""
    sizes: Mapping[str, int] = NOTHING
    """Bytes of each table, with its indexes, when the meter began."""

    @abstractmethod
    def look(self, connection: Connection, *, whole: bool = False) -> Look:
        """Look into a session's open transaction; `whole`: with the size of the database."""

    async def final_size(self) -> int | None:
        """The bytes of the database once all has run; None where the looks told it."""
        return None

    def watch(self, connection: Connection) -> Callable[[int], Watched]:
        """Look from another session until the returned call is made, which says what was seen.

        It is given the number of rows that the driver counted.
        """
        return lambda rows: Watched()

    def advice(self, kind: str, statement: StatementMeasured) -> str:
        """Say what to do instead of a statement, about a finding of a `kind`."""
        return ""


class TableUse(NamedTuple):
    """How a table is used: `reads` and `writes` count from when the server began to count."""

    size: int
    reads: int | None = None
    writes: int | None = None
    oldest_s: float = 0.0
    oldest_writer_s: float = 0.0


class Usage(NamedTuple):
    """How a database is used, at a moment in seconds on the server's clock."""

    at: float = 0.0
    counted_s: float = 0.0
    """Seconds since the server counts."""
    transactions: int | None = None
    tables: Mapping[str, TableUse] = NOTHING


Relations = Collection[str] | None
"""Names as a meter gives them; None: all."""
