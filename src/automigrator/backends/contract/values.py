"""Values that a backend and the core exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from automigrator.frozen import Frozen

if TYPE_CHECKING:
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

    from automigrator.failure import FailureKind


class VersionTable(Frozen):
    """Where a history keeps its heads; `schema` None is the connection's default."""

    name: str = "alembic_version"
    schema: str | None = None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


class Sight(Frozen):
    """What one look at a database found; `heads` is per version table, None where it is absent."""

    exists: bool
    heads: Mapping[VersionTable, tuple[str, ...] | None]
    has_tables: bool = False
    """Whether there are tables other than the version tables."""
    writable: bool = True
    """Whether the server takes writes: a standby only replays its primary's."""
    unfinished: bool = False
    """Whether the journal of a killed process is open: the next leader finishes or undoes it."""
    notes: tuple[str, ...] = ()
    """What a person should know of what was left open, one sentence each."""
    checksum: str | None = None
    """The one checksum of all that are kept of applied revisions; None where none are.

    They are those of the first version table that was looked at.
    """

    def all_heads(self) -> tuple[str, ...]:
        """The heads of all version tables, sorted."""
        return tuple(sorted({head for heads in self.heads.values() for head in heads or ()}))


class StatementProgress(Frozen):
    """What a server says of a statement that runs: `done` of `total`, which is 0 if not known."""

    phase: str
    done: int = 0
    total: int = 0


class Place(Frozen):
    """The database to migrate, and an engine of ours that leads there."""

    engine: AsyncEngine
    url: URL
    in_place: bool = False
    """Whether the database lives in the engine's own connection alone."""


class Verdict(Frozen):
    """What a driver's error says: its kind, None where the codes do not tell, and what to do."""

    kind: FailureKind | None = None
    advice: str = ""
    of_data: bool = False
    """Whether the database itself says that its data or schema do not go with the statement, or
    that its file is damaged: the only answers after which data may be discarded."""
    follows: bool = False
    """Whether it only says that an earlier error has ended the transaction."""
