"""What automigrator keeps on a server: its databases by their names, and its notes.

A note is the comment on a type in a schema of ours, where autogenerate does not see it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, cast, get_args

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.postgresql.sql import literal, rows_of, run

Kind = Literal["snapshot", "purged", "undone", "side", "replaced"]

"""`snapshot` is a copy of the target. `side` is not yet in the target's place; `replaced` was
there, and is to be renamed or dropped. A purge has set `purged` aside, and a restore `undone`.
"""

SCHEMA_OF_OURS = "automigrator"

"""The schema that holds a dump's journal and what the lock's holders leave."""

KEY = "automigrator"

"""The key of the object that a comment of ours holds."""

OPEN = tuple(f'{{"{KEY}": {{"state": "{state}"%' for state in ("migrating", "restoring"))

"""What the comment of an open journal is LIKE."""

IS_OPEN = f"""
    exists (select from pg_catalog.pg_description s
            join pg_catalog.pg_type t on t.oid operator(pg_catalog.=) s.objoid
            join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) t.typnamespace
            where (s.classoid operator(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass)
              and (n.nspname operator(pg_catalog.=) '{SCHEMA_OF_OURS}')
              and s.description operator(pg_catalog.~~) any (cast(:open as pg_catalog.text[])))
"""

"""Whether a dump's journal is open in the current database; `:open` is `OPEN`.

Safe under any path.
"""

NAME = "pg_catalog.current_database()::pg_catalog.text"

"""What the current database calls itself; safe under any path."""

_NAME_LIMIT = 63  # bytes: NAMEDATALEN - 1

_STAMP = "[0-9A-Za-z]{1,28}"

_OURS = rf".*__automigrator_({'|'.join(get_args(Kind))})_({_STAMP})"


class TargetName:
    """The name of the target's database: its own, once it was asked for it.

    A URL may spell it otherwise, or leave it to the surroundings, and a pooler may have an alias.
    """

    def __init__(self, access: Access) -> None:
        url = access.url
        self._access, self._asked = access, False
        self.spelled = url.database or url.username or ""
        """What releases before 0.1 take for the name: by it they lock and keep notes."""
        self.own = url.database or os.environ.get("PGDATABASE") or url.username or ""
        """What the database calls itself; what would be connected to, until it was asked."""

    def learn(self, own: str) -> None:
        self.own, self._asked = own, True

    @property
    def all(self) -> tuple[str, ...]:
        """Its own name, and that by which older releases call it where that is another one."""
        return tuple(dict.fromkeys((self.own, self.spelled)))

    async def asked(self) -> str:
        """Ask the database, unless that was done. Raises what connecting raises, not absence."""
        # local: a start with nothing to do needs none of it
        from automigrator.backends.postgresql.errors import NO_DATABASE, code_of, with_code

        if not self._asked:
            try:
                async with self._access.shared(reading=True) as connection:
                    self.learn((await rows_of(connection, f"select {NAME}"))[0][0])
            except Exception as error:
                await with_code(error, self._access, self.own)
                if code_of(error) != NO_DATABASE:
                    raise
        return self.own


class Ours(NamedTuple):
    """A database that automigrator put beside a target."""

    name: str
    kind: Kind
    stamp: str


async def ours(admin: AsyncConnection, live: str) -> list[Ours]:
    """Return the databases that automigrator keeps beside `live`, oldest stamp first."""
    rows = await rows_of(admin, "select datname::text from pg_database")
    return among((row[0] for row in rows), live)


def among(names: Iterable[str], live: str) -> list[Ours]:
    """Return those of the names that are databases of ours beside `live`, oldest stamp first."""
    found = []
    for name in names:
        if match := re.fullmatch(_OURS, name, re.DOTALL):
            each = Ours(name, cast(Kind, match[1]), match[2])
            # made again rather than taken apart: a neighbour's name may begin like ours
            if name == name_beside(live, each.kind, each.stamp):
                found.append(each)
    return sorted(found, key=lambda each: (each.stamp, each.kind))


def name_beside(live: str, kind: Kind, stamp: str) -> str:
    """Name a database of this kind beside `live`; `stamp` is 1 to 28 letters and digits."""
    if not re.fullmatch(_STAMP, stamp):
        raise ValueError(f"stamp {stamp!r} is not 1 to 28 letters and digits")
    tail = f"__automigrator_{kind}_{stamp}"
    room = _NAME_LIMIT - len(tail)
    if len(live.encode()) > room:
        digest = hashlib.blake2b(live.encode(), digest_size=5).hexdigest()
        cut = live.encode()[: room - len(digest) - 1].decode(errors="ignore")
        live = f"{cut}_{digest}"
    return live + tail


Note = Literal["last", "works_with", "dump"]
"""The last leader's record, the declaration of the code that works with the database, a journal."""


def note_name(kind: Note, key: int) -> str:
    """Name the note of one kind of the target with this lock key, with its schema."""
    return f"{SCHEMA_OF_OURS}.{kind}_{key % 2**64:016x}"


def note_statement(kind: Note, key: int, text: str) -> str:
    """The statement that replaces the text of a note that is there."""
    return f"COMMENT ON DOMAIN {note_name(kind, key)} IS {literal(text)}"


async def read_note(access: Access, kind: Note, key: int) -> str | None:
    """Read a text; None where there is none."""
    async with access.shared() as connection:
        rows = await rows_of(
            connection,
            "select obj_description(t.oid, 'pg_type') from pg_type t join pg_namespace n "
            "on n.oid = t.typnamespace where n.nspname || '.' || t.typname = :name",
            name=note_name(kind, key),
        )
    return rows[0][0] if rows else None


async def write_note(
    connection: AsyncConnection, kind: Note, key: int, text: Callable[[float], str | None]
) -> None:
    """Replace a text, whole or not at all; None removes it.

    `text` gets the time on the server's clock.
    """
    qualified = note_name(kind, key)
    ((now, there),) = await rows_of(
        connection,
        "select extract(epoch from clock_timestamp())::float8, to_regtype(:name) is not null",
        name=qualified,
    )
    new = text(now)
    if new is None:
        await run(connection, f"DROP DOMAIN IF EXISTS {qualified}")
        return
    if not there:
        await run(connection, f"CREATE SCHEMA IF NOT EXISTS {SCHEMA_OF_OURS}")
        await run(connection, f"CREATE DOMAIN {qualified} AS text")
    # one statement: a kill leaves the old text or the new one
    await run(connection, note_statement(kind, key, new))
