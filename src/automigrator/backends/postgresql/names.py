"""What automigrator keeps on a server, and which of it is ours.

Anybody may take a name: a thing is ours by its owner.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from typing import Literal, cast, get_args

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.postgresql.sql import (
    rows_of,
)
from automigrator.errors import RefusedError
from automigrator.frozen import Frozen

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
    exists (select from pg_catalog.pg_type t
            join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) t.typnamespace
            join pg_catalog.pg_description s on s.objoid operator(pg_catalog.=) t.oid
            where (s.classoid operator(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass)
              and (n.nspname operator(pg_catalog.=) '{SCHEMA_OF_OURS}')
              -- what begins with dump_, by an index: there are two types for each table
              and (t.typname operator(pg_catalog.>=) 'dump_')
              and (t.typname operator(pg_catalog.<) 'dump`')
              and s.description operator(pg_catalog.~~) any (cast(:open as pg_catalog.text[])))
"""

"""Whether a dump's journal is open in the current database; `:open` is `OPEN`.

Safe under any path.
"""

NAME = "pg_catalog.current_database()::pg_catalog.text"

"""What the current database calls itself; safe under any path."""

_OURS = """(
    with recursive own (oid) as (
        select r.oid from pg_roles r where r.rolname = current_user
        union select m.roleid from own join pg_auth_members m on m.member = own.oid),
    trusted (oid) as (
        select r.oid from pg_roles r left join pg_database d on d.datname = {live}
        where r.rolsuper or r.rolname = current_user or r.oid = d.datdba
              -- a group of readers is everybody's who is in it, and what PUBLIC may, it may as well
              or r.oid in (select oid from own) and exists (select from aclexplode(d.datacl) a
                  where a.grantee = r.oid and a.privilege_type = 'CREATE')
        union select m.member from trusted join pg_auth_members m on m.roleid = trusted.oid)
    select oid from trusted)
"""

OURS, OURS_HERE = _OURS.format(live=":live"), _OURS.format(live="current_database()")

"""The roles that are trusted with the database `:live`, or with the connection's: what one of them
owns is ours.

They are this role, the database's owner, superusers, and the roles that this one is a member of if
they themselves were granted CREATE on the database; and every member of one of them, which may act
as it. A superuser is a member of what it was made a member of.
"""

_NAME_LIMIT = 63  # bytes: NAMEDATALEN - 1

_STAMP = "[0-9A-Za-z]{1,28}"

_TIME = "[0-9]{8}t[0-9]{6,12}z"
"""A time of ours, as a name that needs no quotes has it."""

_PLAIN = "[a-z_][a-z0-9_]*"
"""What needs no quotes."""

_NAMED = rf".*__automigrator_({'|'.join(get_args(Kind))})_({_STAMP})"


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


class Ours(Frozen):
    """A database that automigrator put beside a target."""

    name: str
    kind: Kind
    stamp: str


async def ours(admin: AsyncConnection, live: str) -> list[Ours]:
    """Return the databases that automigrator keeps beside `live`, oldest stamp first."""
    query = f"select datname::text from pg_database where datdba in {OURS}"
    return among((row[0] for row in await rows_of(admin, query, live=live)), live)


async def copies_of_missing(admin: AsyncConnection, live: str) -> list[tuple[str, str]]:
    """Return the databases beside `live`, which is not there, that may hold its data; with owners.

    Nobody can tell who owned it: a superuser, who may act for anybody, counts every one.
    """
    rows = await rows_of(
        admin,
        f"""
        select datname::text, pg_get_userbyid(datdba)::text from pg_database
        where not exists (select from pg_database where datname = :live) and (datdba in {OURS}
              or exists (select from pg_roles where rolname = current_user and rolsuper))
        """,
        live=live,
    )
    owners: dict[str, str] = dict(map(tuple, rows))
    return [(e.name, owners[e.name]) for e in among(owners, live) if e.kind != "side"]


async def ensure_ours(admin: AsyncConnection, live: str, name: str) -> None:
    """Raise RefusedError where a database of this name is there, and not ours."""
    query = f"""
        select pg_get_userbyid(datdba)::text from pg_database
        where datname = :name and datdba not in {OURS}
    """
    if rows := await rows_of(admin, query, name=name, live=live):
        raise RefusedError(
            f"a database named {name!r} is there, which automigrator has to make or remove beside "
            f"{live!r}, and it belongs to role {rows[0][0]!r}: it is not ours, and nothing was "
            "changed. Find out whose it is, and rename or drop it"
        )


def among(names: Iterable[str], live: str) -> list[Ours]:
    """Return those of the names that are databases of ours beside `live`, oldest stamp first."""
    found = []
    for name in names:
        if match := re.fullmatch(_NAMED, name, re.DOTALL):
            kind, told = cast(Kind, match[1]), match[2]
            # made again rather than taken apart: a neighbour's name may begin like ours
            if name in (name_beside(live, kind, told), _quoted_name_beside(live, kind, told)):
                stamp = told.upper() if re.fullmatch(_TIME, told) else told
                found.append(Ours(name, kind, stamp))
    return sorted(found, key=lambda each: (each.stamp, each.kind))


def name_beside(live: str, kind: Kind, stamp: str) -> str:
    """Name a database of this kind beside `live`; `stamp` is 1 to 28 letters and digits.

    The name needs no quotes: lower case letters, digits and underscores.
    """
    if not re.fullmatch(_STAMP, stamp):
        raise ValueError(f"stamp {stamp!r} is not 1 to 28 letters and digits")
    tail = f"__automigrator_{kind}_{stamp.lower()}"
    if re.fullmatch(_PLAIN, live) and len(live + tail) <= _NAME_LIMIT:
        return live + tail
    plain = re.sub("[^a-z0-9]+", "_", live.lower()) if not re.fullmatch(_PLAIN, live) else live
    return _cut(plain if re.match(_PLAIN, plain) else f"_{plain}", live, tail)


def _quoted_name_beside(live: str, kind: Kind, stamp: str) -> str:
    """The name that earlier releases give: it may need quotes."""
    tail = f"__automigrator_{kind}_{stamp}"
    fits = len((live + tail).encode()) <= _NAME_LIMIT
    return live + tail if fits else _cut(live, live, tail)


def _cut(beginning: str, live: str, tail: str) -> str:
    """Shorten a name, with a digest that tells `live` from others that begin like it."""
    digest = hashlib.blake2b(live.encode(), digest_size=5).hexdigest()
    room = _NAME_LIMIT - len(tail) - len(digest) - 1
    return f"{beginning.encode()[:room].decode(errors='ignore')}_{digest}{tail}"
