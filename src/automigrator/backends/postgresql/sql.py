"""Plain SQL on a connection: quoting, running, and the search path under which ours is read.

Anybody may make functions and operators in a schema that he may create in, and the server takes
one of them where it fits better than its own. So a session of ours finds names in `pg_catalog`
alone. What runs on a connection of an env.py, or of the application, runs under their search path:
there each function, operator, table and type is named with its schema. Such SQL has no IN, LIKE,
BETWEEN or NULLIF, whose operators cannot be named.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.frozen import Frozen

NO_LIMITS = """
    select set_config(name, '0', true) from pg_settings
    where name in ('statement_timeout', 'idle_in_transaction_session_timeout',
                   'transaction_timeout')  -- from PostgreSQL 17 on
"""

"""Lifts all limits of time for one transaction."""

LIMITS_OF_TIME = """
    select pg_catalog.array_agg(
        name operator(pg_catalog.||) '=' operator(pg_catalog.||) setting)
    from pg_catalog.pg_settings
    where (setting operator(pg_catalog.<>) '0') and name operator(pg_catalog.=) any (array[
        'statement_timeout', 'idle_in_transaction_session_timeout',
        'idle_session_timeout',  -- from PostgreSQL 14 on
        'transaction_timeout'])  -- from PostgreSQL 17 on
"""

"""The limits of time that a session has, as an array of `name=value`; safe under any path."""

STATEMENT_TIMEOUT = """
    select setting::pg_catalog.int8 from pg_catalog.pg_settings
    where name operator(pg_catalog.=) 'statement_timeout'
"""

"""Safe under any path, as milliseconds."""

CHOSEN_OR_EMPTY = """
    select s.source operator(pg_catalog.=) any (array['client', 'session']) or not exists (
        select from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
        where c.relkind operator(pg_catalog.=) any ('{r,p}'::pg_catalog."char"[])
          and (c.relname operator(pg_catalog.<>) :version_table)
          and (n.nspname operator(pg_catalog.=) :schema)
          and not exists (
              select from pg_catalog.pg_depend d
              where (d.classid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass)
                and (d.objid operator(pg_catalog.=) c.oid)
                and (d.deptype operator(pg_catalog.=) 'e')))
    from pg_catalog.pg_settings s where s.name operator(pg_catalog.=) 'search_path'
"""

"""Whether a session set its search_path itself, or has no table in the first schema of it.

Safe under any path.
"""

SERVER = """(extract(epoch from pg_catalog.pg_postmaster_start_time())
    operator(pg_catalog.*) 1000000)::pg_catalog.int8"""

"""The server, told by when it was started: its address may lead to another one by now.

Safe under any path.
"""

_KEPT = "automigrator.search_path"

"""The setting in which a session of ours keeps the application's search path."""

# CASE: the one before the other
_SETTLE = f"""
    select case when pg_catalog.set_config('{_KEPT}', {{path}}, {{local}}) is not null
    then pg_catalog.set_config('search_path', 'pg_catalog', {{local}}) end
"""

_AS_CONNECTED = "pg_catalog.current_setting('search_path')"

_PATH_OF = "automigrator_path"

"""Under which a connection's `info` has the path of the target that uses it, as SQL."""

_PATH_SET = "automigrator_path_set"

"""The path that its session keeps, where that was set since it connected."""

USUAL_PATH = f"coalesce(current_setting('{_KEPT}', true), current_setting('search_path'))"

"""The application's search path. In a session of ours alone."""

# each is read whole before the next, as none of them is a subquery that could be drawn in
PATH = f"""
    theirs as materialized (select set_config('search_path', {USUAL_PATH}, true)),
    path as materialized (select current_setting('search_path') as setting,
        current_schemas(false)::text[] as schemas, current_schemas(true)::text[] as visible
        from theirs),
    ours as materialized (select path.*, set_config('search_path', 'pg_catalog', true) from path)
"""

"""For WITH: `ours` has one row, a `SearchPath`. In a session of ours alone."""


class SearchPath(Frozen):
    """Where the application's connections look for tables."""

    setting: str = ""
    schemas: tuple[str, ...] = ()
    """Those of the setting that exist."""
    visible: tuple[str, ...] = ()
    """All in which a name without a schema is found, those of the server among them."""

    @property
    def first(self) -> str | None:
        """What `current_schema()` says there."""
        return self.schemas[0] if self.schemas else None


def first_found(name: str, schemas: str) -> str:
    """The SQL of the oid of the relation `name` in the first of an array of schemas that has it."""
    # in this order: thousands of schemas may have a table of this name
    return f"""(select f.oid from unnest({schemas}) with ordinality as s(schema, turn)
        cross join lateral (
            select oid from pg_namespace where nspname = s.schema offset 0) as m
        cross join lateral (
            select oid from pg_class where relnamespace = m.oid and relname = {name} offset 0) as f
        order by s.turn limit 1)"""


FIRST_OF_PLACE = first_found(
    "a.name", "case when a.schema is null then ours.visible else array[a.schema] end"
)

"""That of a table `a` with a name and a schema, null where it has none, by `PATH`."""


def quoted_name(identifier: str) -> str:
    if "\0" in identifier or not identifier:
        raise ValueError("an identifier is neither empty nor does it hold a null character")
    return '"' + identifier.replace('"', '""') + '"'


def literal(value: str) -> str:
    quoted = "'" + value.replace("'", "''") + "'"
    # E'' means the same whatever standard_conforming_strings says
    return " E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


def server_version(connection: AsyncConnection) -> tuple[Any, ...]:
    return connection.dialect.server_version_info or ()


async def run(connection: AsyncConnection, sql: str) -> None:
    # a colon in a name is no parameter, and text() also minds the driver's percent signs
    await connection.execute(text(sql.replace(":", "\\:")))


async def rows_of(connection: AsyncConnection, sql: str, **parameters: Any) -> Sequence[Any]:
    return (await connection.execute(_read(sql), parameters)).all()


_read = functools.lru_cache(64)(text)  # it searches the SQL for its parameters


async def run_together(connection: AsyncConnection, statements: Sequence[str]) -> None:
    """Run statements in AUTOCOMMIT, all of them as one message. Raises what the driver raises."""
    driver = (await connection.get_raw_connection()).driver_connection
    await run_apart(driver, "; ".join(statements))


async def application_path(connection: AsyncConnection) -> SearchPath:
    """Where the application would look for tables in the database of a connection of ours."""
    query = f"with {PATH} select setting, schemas, visible from ours"
    ((setting, schemas, visible),) = await rows_of(connection, query)
    return SearchPath(setting, tuple(schemas), tuple(visible))


async def begin_reading(connection: AsyncConnection) -> None:
    """Begin a transaction that sees one state of the database, without a limit of time."""
    if handed_on(connection):
        await run(connection, "ROLLBACK")
    await run(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    if handed_on(connection):
        await run(connection, _settling(connection, local=True))
    await run(connection, NO_LIMITS)


async def end_reading(connection: AsyncConnection) -> None:
    """End what `begin_reading` began."""
    if handed_on(connection):
        await renew(connection)
    else:
        await run(connection, "ROLLBACK")


async def renew(connection: AsyncConnection) -> None:
    """Begin anew, after an error, the transaction that a use behind a pooler is."""
    if handed_on(connection):
        await run(connection, "ROLLBACK")
        await _begin(connection)


async def _begin(connection: AsyncConnection) -> None:
    await run(connection, "BEGIN")
    await run(connection, _settling(connection, local=True))


def _settling(connection: AsyncConnection, *, local: bool) -> str:
    """The SQL that gives a session our path, and keeps that of the target which uses it."""
    assert connection.sync_connection is not None
    path = connection.sync_connection.info.get(_PATH_OF, _AS_CONNECTED)
    return _SETTLE.format(path=path, local=local)


_HANDED_ON = "automigrator_handed_on"


def handed_on(connection: AsyncConnection) -> bool:
    """Whether a pooler may hand the session to others, who must not find it changed.

    False where the server has called the process by the id that the client was told.
    """
    assert connection.sync_connection is not None
    return bool(connection.sync_connection.info.get(_HANDED_ON))


def told_pid(driver: Any) -> int | None:
    """Return the process id that a driver was told when it connected: a pooler invents one."""
    ask = getattr(driver, "get_server_pid", None)
    if ask is not None:
        return int(ask())
    info = getattr(driver, "info", None)
    return getattr(info, "backend_pid", None)


class OwnPath:
    """Gives sessions of ours the search path `pg_catalog`, and keeps the application's as data.

    A session that is the server's own has it from the beginning. One behind a pooler may be handed
    to others at the end of each transaction, so there each use is one transaction, in which it is
    set. In the databases `proved` no pooler does so.

    `path`: the search path of the target, where its connections are made without, as those are
    that targets share; None where they have it from the beginning.
    """

    def __init__(self, path: str | None = None) -> None:
        self.proved: set[str | None] = set()
        self.path = path
        self._path = literal(path) if path is not None else None

    def connected(self, connection: Any, record: Any) -> None:
        """See `Settling`."""
        record.info[_HANDED_ON] = not connection.run_async(_settled)

    @asynccontextmanager
    async def used(
        self, connection: AsyncConnection, *, autocommit: bool, acting: bool
    ) -> AsyncIterator[None]:
        """See `Settling`."""
        if self._path is not None:
            await self._as_targets(connection)
        if not handed_on(connection):
            yield
        elif not autocommit:
            await run(connection, _settling(connection, local=True))
            yield
        elif connection.engine.url.database in self.proved:
            await settle(connection)
            yield
        elif acting:
            yield
        else:
            await _begin(connection)
            try:
                yield
            except BaseException:
                await connection.invalidate()  # it must not be kept with an open transaction
                raise
            await run(connection, "COMMIT")

    async def _as_targets(self, connection: AsyncConnection) -> None:
        """Let a session keep this target's path, where it keeps another's."""
        assert connection.sync_connection is not None
        info = connection.sync_connection.info
        info[_PATH_OF] = self._path
        if not handed_on(connection) and info.get(_PATH_SET) != self._path:
            driver = (await connection.get_raw_connection()).driver_connection
            await run_apart(driver, f"select pg_catalog.set_config('{_KEPT}', {self._path}, false)")
            info[_PATH_SET] = self._path

    async def proves(self, connection: AsyncConnection) -> None:
        """Note that no pooler hands the sessions of this connection's database to others."""
        self.proved.add(connection.engine.url.database)
        if handed_on(connection):
            await settle(connection)


async def settle(connection: AsyncConnection) -> None:
    """Set the path for the session, for good; the connection is in AUTOCOMMIT."""
    assert connection.sync_connection is not None
    await run(connection, _settling(connection, local=False))
    connection.sync_connection.info[_HANDED_ON] = False


async def _settled(driver: Any) -> bool:
    """Set the path of a session that is the server's own; whether it was set."""
    told = told_pid(driver)
    if told is None:
        return False
    sql = _SETTLE.format(path=_AS_CONNECTED, local=False)
    sql += f" where pg_catalog.pg_backend_pid() operator(pg_catalog.=) ({told:d})"
    if is_in_transaction(driver):  # a listener of the application's has begun one
        return False
    return await run_apart(driver, sql) == 1


def is_in_transaction(driver: Any) -> bool:
    """Whether a driver's connection has a transaction open."""
    if hasattr(driver, "get_server_pid"):  # asyncpg's
        return bool(driver.is_in_transaction())
    return bool(driver.info.transaction_status)


async def run_apart(driver: Any, sql: str) -> int:
    """Run SQL without parameters on a driver's connection that is in no transaction.

    Several statements are sent as one message. Returns the rows of the last one. Raises what the
    driver raises, which SQLAlchemy has not wrapped.
    """
    if hasattr(driver, "get_server_pid"):  # asyncpg's; it answers with a command tag
        number = str(await driver.execute(sql)).rpartition(" ")[2]
        return int(number) if number.isdigit() else 0
    autocommit = driver.autocommit
    if not autocommit:
        await driver.set_autocommit(True)
    try:
        return int((await driver.execute(sql, prepare=False)).rowcount)
    finally:
        if not autocommit:
            await driver.set_autocommit(False)
