"""The journals of a PostgreSQL target: comments, which the next start reads wherever it runs.

A template copy's journal is the comment on the copy. A dump is a file, which the next start may
not see: its journal is the comment on a type of ours in the target's database, so that one
transaction holds the restore and what the journal says of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.contract import journal as contract
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import notes
from automigrator.backends.postgresql.databases import set_comment
from automigrator.backends.postgresql.locking.session import SessionHold
from automigrator.backends.postgresql.names import KEY
from automigrator.backends.postgresql.sql import rows_of
from automigrator.support import json_object


class Entry(contract.Entry):
    """`before` and `after` are heads of the target's `tables`.

    `steps` and `committed` are as in `needs_nothing`, None in entries of a release that wrote none.
    `transactions` are those in which revisions ran before it was known that one was committed.
    """

    _: KW_ONLY
    tables: tuple[VersionTable, ...]
    disconnect_others: bool = False
    steps: tuple[str, ...] | None = None
    committed: bool | None = None
    transactions: tuple[str, ...] = ()
    repairs: contract.Repairs = contract.Repairs()

    @property
    def may_be_torn(self) -> bool:
        """Whether a row that differs from the snapshot's may be the migration's."""
        return bool(self.committed) or self.state == "restoring"

    def dumped(self) -> str:
        return json_object.dumped({KEY: self})


class CopyEntry(Entry):
    """A migration that a template copy undoes.

    A migration is `atomic` where it is one transaction, which a kill undoes whole. `key` is that
    of the target's lock, `oid` the database's, None in the entry of a release that wrote none.
    """

    _: KW_ONLY
    atomic: bool = False
    key: int | None = None
    oid: int | None = None

    @property
    def by_hand(self) -> bool:
        """Whether a person asked for this restore: no migration ends where it begins."""
        return self.state == "restoring" and self.before == self.after


class DumpEntry(Entry):
    """A migration that the dump `path` on `host` undoes.

    `size` and `digest` are the file's. `catalog` tells whether DDL was committed since, `shape`
    and `rows` whether a restore is complete. `values` tells whether rows have changed, and is empty
    where the migration is one transaction, which a kill undoes whole. `extensions` have name,
    schema and version. Which programs run is not written down: this start's configuration says it.
    """

    _: KW_ONLY
    path: str
    host: str
    server: int
    size: int = 0
    digest: str = ""
    catalog: str = ""
    shape: str = ""
    rows: str = ""
    values: str = ""
    extensions: tuple[tuple[str, str, str], ...] = ()


E = TypeVar("E", bound=Entry)


async def write(admin: AsyncConnection, copy: str, entry: CopyEntry) -> None:
    await set_comment(admin, copy, entry.dumped())


async def read(admin: AsyncConnection, copies: Sequence[str]) -> dict[str, CopyEntry]:
    """Return the open entries of these databases; a comment that is not ours is none."""
    rows = await rows_of(
        admin,
        """
        select datname::text, left(shobj_description(oid, 'pg_database'), :most)
        from pg_database where datname = any(cast(:names as text[]))
        """,
        names=list(copies),
        most=json_object.LIMIT + 1,
    )
    return {name: entry for name, comment in rows if (entry := _loaded(CopyEntry, comment))}


async def unfinished(admin: AsyncConnection, copies: Sequence[str]) -> frozenset[str]:
    """Return those that a kill kept from being finished: nobody may connect to them as yet.

    One that somebody has closed by hand has a comment.
    """
    rows = await rows_of(
        admin,
        "select datname::text from pg_database where datname = any(cast(:names as text[])) "
        "and not datallowconn and shobj_description(oid, 'pg_database') is null",
        names=list(copies),
    )
    return frozenset(row[0] for row in rows)


async def write_dump(hold: SessionHold, entry: DumpEntry | None) -> None:
    """Replace a dump's journal; with None it is there, and empty."""
    text = entry.dumped() if entry is not None else ""
    await hold.write_note("dump", hold.dump_key, lambda _: text)


async def read_dump(access: Access, key: int) -> DumpEntry | None:
    return _loaded(DumpEntry, await notes.read_note(access, "dump", key))


async def forget_dump(hold: SessionHold) -> None:
    await hold.write_note("dump", hold.dump_key, lambda _: None)


def described(text: bytes) -> DumpEntry | None:
    """Return what the file beside a dump says of it; None for anything else."""
    return _loaded(DumpEntry, text.decode(errors="replace"))


def _loaded(kind: type[E], comment: str | None) -> E | None:
    try:
        entry = json_object.read(kind, json_object.parsed(comment)[KEY])
    except (ValueError, KeyError, TypeError):
        return None
    return entry if entry.state != "kept" else None
