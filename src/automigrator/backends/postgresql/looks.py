"""One look at a PostgreSQL target: its heads, whether it has tables, what was left open in it.

It is taken on a connection of our own, or on an idle one of the application's.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING

from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access, idle_connection
from automigrator.backends.contract.checksums import BEGINNING, begun
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.backends.postgresql.locking.advisory import keys
from automigrator.backends.postgresql.names import (
    IS_OPEN,
    NAME,
    OPEN,
    SCHEMA_OF_OURS,
    TargetName,
    among,
)
from automigrator.backends.postgresql.sql import (
    FIRST_OF_PLACE,
    PATH,
    SERVER,
    SearchPath,
    handed_on,
    quoted_name,
    rows_of,
)
from automigrator.errors import JudgedError, NoAnswerError
from automigrator.frozen import Frozen
from automigrator.support.concurrency import within

if TYPE_CHECKING:
    from automigrator.backends.postgresql.locking.session import SessionHold
    from automigrator.backends.postgresql.neighbours import Claim

BUSY_S = 10

"""Seconds that a look waits for another session's exclusive lock on a version table."""

# a swap that restores nothing has no journal: what it replaced shows that it is unfinished;
# safe under any path
OPENED = """
    (select pg_catalog.array_agg(d.datname::pg_catalog.text) from pg_catalog.pg_database d
     where d.datname::pg_catalog.text operator(pg_catalog.~) '__automigrator_replaced_' or exists (
         select from pg_catalog.pg_shdescription s
         where (s.classoid operator(pg_catalog.=) 'pg_catalog.pg_database'::pg_catalog.regclass)
           and (s.objoid operator(pg_catalog.=) d.oid)
           and s.description operator(pg_catalog.~~) any (cast(:open as pg_catalog.text[]))))
"""

_LOOK = f"""
    with {PATH}, asked as (
        select a.*, c.oid, c.relkind, c.relname, n.nspname
        from ours cross join unnest(cast(:names as text[]), cast(:schemas as text[]))
             with ordinality as a(name, schema, number)
        left join pg_class c on c.oid = {FIRST_OF_PLACE}
        left join pg_namespace n on n.oid = c.relnamespace),
    found as (
        select array_agg(nspname::text order by number) as places,
               min(format('%I.%I', nspname, relname)) filter (where relkind = 'v') as view
        from asked)
    {{filled}}
    select set_config('lock_timeout', :busy, :local), setting, schemas, visible,
           places, view, is_filled, {OPENED},
           (select oid::int8 from pg_database where datname = current_database()), {SERVER},
           pg_is_in_recovery(), {IS_OPEN}, {NAME}
    from ours cross join found cross join filled
"""

_FILLED = """,
    own as (select coalesce(asked.schema, ours.schemas[1]) as schema from asked cross join ours),
    tables as (
        select n.nspname::text as schema, c.relnatts = 1 and exists (
                   select from pg_attribute a
                   where a.attrelid = c.oid and a.attnum = 1 and a.attname = 'version_num'
               ) as is_history
        from (select schemas[1] from ours union select schema from own) as looked (schema)
        cross join lateral (select * from pg_namespace where nspname = looked.schema offset 0) as n
        -- by an index, which pg_class has not: a database may have many more schemas
        cross join lateral (
            select r.oid, r.relnatts from pg_depend d join pg_class r on r.oid = d.objid
            where d.refclassid = 'pg_namespace'::regclass and d.refobjid = n.oid
              and d.classid = 'pg_class'::regclass and r.relkind in ('r', 'p') offset 0) as c
        where not exists (select from asked where asked.oid = c.oid)
          and (select count(*) from pg_depend d where d.classid = 'pg_class'::regclass
               and d.objid = c.oid and d.deptype = 'e') = 0),
    filled as (
        select exists (select from tables where schema in (select schema from own))
        -- an explicit schema for the version table alone: the tables are where they usually are
        or coalesce((select bool_and(not is_history) from tables
                     where schema = ours.schemas[1]), false) as is_filled
        from ours)
"""

"""Whether the target has tables; what a neighbour keeps in another schema is not its own."""

_PLACES = _LOOK.format(filled=", filled as (select false as is_filled)")

_PLACES_AND_FILLED = _LOOK.format(filled=_FILLED)


class View(Frozen):
    """A sight, and where its connection looks for tables.

    `opened` are the databases of the server whose comment is an open record of ours, or whose name
    says that they were replaced, `schemas` where the version tables were found, `server` is as in
    `sql.SERVER`; `dump_open` is whether this database has a record for a dump, and `database` what
    it calls itself; `oid` is its own.
    """

    sight: Sight
    search_path: SearchPath
    opened: Sequence[str] | None
    schemas: Mapping[VersionTable, str]
    server: int
    dump_open: bool
    database: str
    oid: int = 0


async def look(
    connection: AsyncConnection,
    tables: Sequence[VersionTable],
    *,
    heads_only: bool = False,
    unread: bool = False,
) -> View:
    """Look on a connection of our own, in AUTOCOMMIT: its session gets a lock_timeout.

    `unread`: only find the version tables, which this role may have no right to read.
    """
    (
        (_, *path, found, view, filled, opened, oid, server, standby, dump_open, name),
    ) = await rows_of(
        connection,
        _PLACES if heads_only else _PLACES_AND_FILLED,
        names=[table.name for table in tables],
        schemas=[table.schema for table in tables],
        open=list(OPEN),
        busy=f"{BUSY_S}s",
        local=handed_on(connection),  # others must not find it set
    )
    if view is not None:
        raise JudgedError(
            "env",
            f"{view}, where the version table is looked for, is a view, and to read it would run "
            "whatever its owner wrote; nothing was changed",
            "find out who made it, and drop it; or say where the version table is with "
            "Target(version_table=..., version_table_schema=...)",
        )
    where = SearchPath(path[0], *map(tuple, path[1:]))
    places = {each: place for each, place in zip(tables, found or (), strict=True) if place}
    heads: dict[VersionTable, tuple[str, ...] | None] = dict.fromkeys(tables)
    kept: str | None = None
    if places and not unread:
        asked = [heads_in(schema, table.name) for table, schema in places.items()]
        asked.append(_checksums_of(name, tables[0]))
        ((*rows, kept),) = await rows_of(connection, f"select {', '.join(asked)}")
        heads.update(zip(places, (tuple(sorted(each)) for each in rows), strict=True))
    sight = Sight(True, heads, filled, writable=not standby, checksum=begun(kept))
    return View(sight, where, opened, places, server, dump_open, name, oid)


def heads_in(schema: str, name: str) -> str:
    """The SQL of an array of the heads in a version table.

    As text: a plan that the connection keeps fails when a revision changes the column's type. Safe
    under any path.
    """
    table = f"{quoted_name(schema)}.{quoted_name(name)}".replace(":", "\\:")
    return f"array(select version_num::pg_catalog.text from {table} order by 1)"


def _checksums_of(database: str, table: VersionTable) -> str:
    """The SQL of the beginning of what is kept of applied revisions; safe under any path.

    Whose it is, is not asked: where it differs from the files, it is read anew, and that is.
    """
    (key,) = keys(database, [table])
    return f"""
        (select pg_catalog.left(pg_catalog.obj_description(t.oid, 'pg_type'), {BEGINNING})
         from pg_catalog.pg_type t
         join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) t.typnamespace
         where (n.nspname operator(pg_catalog.=) '{SCHEMA_OF_OURS}')
           and (t.typname operator(pg_catalog.=) 'checksums_{key % 2**64:016x}'))
    """


_places: weakref.WeakKeyDictionary[Engine, dict[VersionTable, str]] = weakref.WeakKeyDictionary()

"""The schemas in which version tables were found, for each engine of the application."""

_LOOK_PAUSES_S = (0.05, 0.25, 1.0)


class Sights:
    """Looks at one target, and the search path that the last one found."""

    def __init__(
        self,
        access: Access,
        name: TargetName,
        admin: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
    ) -> None:
        self.access, self.name, self._admin = access, name, admin
        self.search_path: SearchPath | None = None
        self.identity: Hashable = None
        """Which database the last look under the lock has seen, as `Sessions.identity` says."""
        application = access.application
        self._application = application if application is access.given_engine else None
        self._places: dict[VersionTable, str] = {}
        if self._application is not None:
            self._places = _places.setdefault(self._application.sync_engine, {})

    async def look(self, tables: Sequence[VersionTable], held: SessionHold | None) -> Sight:
        """See `Backend`; where the lock is held, it must be of the server that is looked at."""
        limit = self.access.connect_timeout
        silent = NoAnswerError(f"no answer from the database within {limit:g} s")
        async with within(limit, lambda: silent):
            return await self._look(tables, held)

    async def _look(self, tables: Sequence[VersionTable], held: SessionHold | None) -> Sight:
        from automigrator.backends.postgresql.errors import NO_DATABASE, code_of, with_code

        pauses = iter(_LOOK_PAUSES_S)
        while True:
            try:
                async with self.access.shared() as connection:
                    view = await look(connection, tables)
                    if held is not None and not held.lost:
                        held.rule(view.server, database=view.database)
                    self.identity = (view.oid, view.server) if held is not None else None
                    self.search_path = view.search_path
                    self._places.update(view.schemas)
                return await self._seen(view)
            except Exception as error:
                await with_code(error, self.access, self.name.own)
                if code_of(error) != NO_DATABASE:
                    raise
                if not await self._is_listed(error):
                    return Sight(False, dict.fromkeys(tables))
                if (pause := next(pauses, None)) is None:
                    raise
            await asyncio.sleep(pause)

    async def glimpse(self, table: VersionTable) -> Sight:
        """Look on an idle connection of the application's, once an own one has found the table.

        The idle one may look for tables elsewhere than a fresh one, so it is told the schema.
        """
        # half: the connection that lies idle may be the only one that is dead
        limit = min(BUSY_S, self.access.connect_timeout / 2)
        async with asyncio.timeout(limit), AsyncExitStack() as stack:
            idle: AsyncConnection | None = None
            schema = self._places.get(table)
            if self._application is not None and schema is not None:
                idle = await stack.enter_async_context(idle_connection(self._application))
            if idle is not None and schema is not None:
                # by one SELECT that leaves nothing on the connection
                of = f"{heads_in(schema, table.name)}, {_checksums_of(self.name.own, table)}"
                query = f"select {of}, {OPENED}, {IS_OPEN}, {NAME}"
                ((heads, kept, opened, dump, name),) = await rows_of(idle, query, open=list(OPEN))
                sight = Sight(True, {table: tuple(heads)}, checksum=begun(kept))
                view = View(sight, SearchPath(), opened, {}, 0, dump, name)
                return await self._seen(view)
            own = await stack.enter_async_context(self.access.shared())
            view = await look(own, [table], heads_only=True)
            self._places.update(view.schemas)
            return await self._seen(view)

    async def _seen(self, view: View) -> Sight:
        self.name.learn(view.database)
        unfinished = view.dump_open or bool(among(view.opened or (), view.database))
        if not unfinished:
            return view.sight
        # local: a start with nothing to do needs none of it
        from automigrator.backends.postgresql import neighbours

        # anybody may take such a name; asked on a connection of ours, whose search path is known
        async with self.access.shared() as connection:
            found = await self.claims(connection)
        unfinished = any(each.unfinished for each in found)
        return view.sight._replace(unfinished=unfinished, notes=neighbours.notes(found))

    async def claims(self, connection: AsyncConnection) -> tuple[Claim, ...]:
        """Return what has a name of ours, on a connection to the target."""
        # local: a start with nothing to do needs none of it
        from automigrator.backends.postgresql import neighbours

        return await neighbours.claims(connection, self._places)

    async def claims_of(
        self, keys: Sequence[int], tables: Sequence[VersionTable]
    ) -> tuple[Claim, ...] | None:
        """Return what has a name of ours; of notes, those of these lock keys.

        None where the database is not there.
        """
        from automigrator.backends.postgresql import neighbours
        from automigrator.backends.postgresql.errors import NO_DATABASE, code_of

        try:
            async with self.access.shared() as connection:
                if not await neighbours.any_claim(connection, keys):
                    return ()
                await self._find(connection, tables)
                found = await self.claims(connection)
        except Exception as error:
            if code_of(error) != NO_DATABASE:
                raise
            return None
        ends = tuple(map(neighbours.ending_of, keys))
        return tuple(c for c in found if c.kind != "domain" or c.name.endswith(ends))

    async def able(self, roles: Collection[str], tables: Sequence[VersionTable]) -> frozenset[str]:
        """Return those of the roles that could have migrated the database; none where it is not."""
        from automigrator.backends.postgresql import neighbours

        if not roles:
            return frozenset()
        async with self.access.shared() as connection:
            await self._find(connection, tables)
            return await neighbours.able(connection, self._places, roles)

    async def _find(self, connection: AsyncConnection, tables: Sequence[VersionTable]) -> None:
        """See to it that it is known where the version tables are, if they are there."""
        if self._places.keys().isdisjoint(tables):
            view = await look(connection, tables, heads_only=True, unread=True)
            self._places.update(view.schemas)

    async def _is_listed(self, refused: Exception) -> bool:
        """Ask the catalog: during a swap a connection may be told that there is no database."""
        from automigrator.backends.postgresql import databases
        from automigrator.backends.postgresql.errors import ServerError

        try:
            async with self._admin() as admin:
                return await databases.exists(admin, self.name.own)
        except ServerError:
            raise refused from None
