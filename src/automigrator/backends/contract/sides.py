"""The part of a lock's hold that makes databases on the side of a target; a backend may lack it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.contract.examiner import TableName
from automigrator.backends.contract.snapshots import DEFAULT, SnapshotOptions
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.errors import RefusedError
from automigrator.retention import Limits


@dataclass(slots=True, eq=False)
class Side:
    """A database on the side: fresh and not yet in the target's place, or a copy of it.

    `engine` is one of ours that leads there; `place` is a file or the name of a database.
    """

    engine: AsyncEngine
    url: URL
    place: str


class Contents(NamedTuple):
    """All that a database holds, so that two can be compared."""

    structure: frozenset[str]
    """A line for each object and each of its properties, where sequences are, too."""
    rows: Mapping[str, tuple[tuple[str, ...], tuple[tuple[bytes, ...], ...]]]
    """By table: its columns, and the digests of the values of each row, in any order."""


def digest_of(value: object) -> bytes:
    """A digest of one value, for `Contents`."""
    return hashlib.blake2b(repr(value).encode(), digest_size=12).digest()


class Known(NamedTuple):
    """The tables that go with a target: `tables` as far as they are found out, None before that.

    `also` are names that the configuration adds, with or without a schema. A table without a
    schema is one of the connection's default schema.
    """

    tables: frozenset[TableName] | None = None
    also: tuple[str, ...] = ()

    def has(self, table: TableName) -> bool:
        """Whether the table is known."""
        named = {table[1], ".".join(filter(None, table))} & set(self.also)
        return bool(named) or table in (self.tables or ())


def unknown(what: str, names: Sequence[str], how: str = "not the target's own") -> RefusedError:
    """The refusal to replace a database that holds tables of somebody else."""
    more = f", and {len(names) - _MOST} more" if len(names) > _MOST else ""
    shown = list(names[:_MOST])
    return RefusedError(
        f"cannot replace {what}: it has tables that are {how}: {', '.join(shown)}{more}; nothing "
        f"was changed. If they may be replaced as well, say so with Purge(also={shown}{more}). "
        "Give the target a database of its own, or leave the strategy out for it with "
        "Target(recovery=[...]), if not"
    )


_MOST = 8
"""Tables that a refusal lists."""


class Sides(ABC):
    """Databases beside one target, under its lock.

    Each method raises RefusedError, before anything is changed, where it cannot be done safely.
    """

    @abstractmethod
    def fresh(self, stamp: str) -> AbstractAsyncContextManager[Side]:
        """Context manager: an empty database, removed at exit unless it took the target's place."""

    @abstractmethod
    def copy(
        self, stamp: str, options: SnapshotOptions = DEFAULT, *, schemas: tuple[str, ...] = ()
    ) -> AbstractAsyncContextManager[Side]:
        """Context manager: a copy of the target as of one moment, removed at exit.

        Others may go on writing to the target. A copy never takes the target's place. `schemas`:
        those that it holds, where others live in the same database; default: all of it.
        """

    @abstractmethod
    async def ensure_replaceable(
        self,
        tables: Sequence[VersionTable],
        *,
        also: tuple[str, ...] = (),
        damaged: bool = False,
    ) -> None:
        """Raise RefusedError where the target shares its database with somebody else.

        That is seen before a side is built; `take_over` looks more closely. `also` is as in
        `Known`. `damaged`: the database is to be replaced for damage, which must be found.
        """

    @abstractmethod
    async def tables(self, place: Place) -> frozenset[TableName]:
        """Return the tables of a side database, as `take_over` compares them."""

    async def contents(self, place: Place) -> Contents:
        """Read all that a side database holds, but for what we keep there ourselves."""
        raise RefusedError("this backend compares no databases; nothing was changed")

    async def script(self, place: Place) -> tuple[str, ...]:
        """Return the statements that make an empty database what a side is, its rows included.

        Without what we keep there ourselves. `Sessions.run_script` runs them.
        """
        raise RefusedError("this backend writes no schema files; nothing was written")

    @abstractmethod
    async def take_over(
        self,
        side: Side,
        stamp: str,
        tables: Sequence[VersionTable],
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
        known: Known | None = None,
    ) -> str | None:
        """Put a fresh side in the target's place; return where the old data was set aside.

        Raises RefusedError where the target holds a table that is not `known`; None: none is
        looked for.
        """

    @abstractmethod
    async def prune_set_aside(self, limits: Limits) -> tuple[str, ...]:
        """Delete old data that `take_over` set aside beyond the limits, and return it."""

    async def prune_damaged(self, limits: Limits) -> tuple[str, ...]:
        """Delete what was set aside as damaged beyond the limits, and return it.

        Only where a person asks for it: no copy of these is sound, and the newest stays.
        """
        return ()
