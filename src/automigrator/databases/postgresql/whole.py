"""Whole PostgreSQL databases: create, copy, drop, swap, and who is connected.

`admin` is always an AUTOCOMMIT connection to another database of the same server.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.databases.backend import VersionTable
from automigrator.errors import RefusedError

Kind = Literal["snapshot", "purged"]
Terminate = Callable[[], AbstractAsyncContextManager[AsyncConnection]]
"""Opens a second AUTOCOMMIT connection to a maintenance database."""

DISCONNECT_LIMIT_S = 10.0
SWAP_LIMIT_S = 30.0
_NAME_LIMIT = 63  # bytes: NAMEDATALEN - 1
_POLL_S = 0.05

_DUPLICATE_DATABASE, _UNIQUE_VIOLATION = "42P04", "23505"
_IN_USE, _LOCK_TIMEOUT, _DEADLOCK, _NO_PRIVILEGE = "55006", "55P03", "40P01", "42501"

# their stored value is a quoted list; any other setting's is one string (as pg_dump has it)
_LISTS = frozenset(
    {
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody connected to a database; `pid` 0 is a prepared transaction."""

    pid: int
    application_name: str
    user: str
    state: str | None
    query_age_s: float | None

    def __str__(self) -> str:
        who = f"pid {self.pid}" if self.pid else "prepared transaction"
        what = [self.application_name, f"user {self.user}", self.state]
        return f"{who} ({', '.join(part for part in what if part)})"


@dataclass(frozen=True, slots=True)
class Grant:
    """A privilege on the database; `role` None is PUBLIC."""

    role: str | None
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """One `ALTER DATABASE/ROLE … SET`; applications keep secrets in them."""

    role: str | None
    name: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """What belongs to a database and a template copy loses; `grants` None is the default."""

    owner: str
    grants: tuple[Grant, ...] | None = None
    variables: tuple[Setting, ...] = ()
    comment: str | None = None
    connection_limit: int = -1


class Ours(NamedTuple):
    """A database that automigrator put beside a target."""

    name: str
    kind: Kind
    stamp: str


async def exists(admin: AsyncConnection, name: str) -> bool:
    return bool(await _rows(admin, "select 1 from pg_database where datname = :name", name=name))


async def create(
    admin: AsyncConnection,
    name: str,
    *,
    template: str | None = None,
    owner: str | None = None,
    like: str | None = None,
) -> bool:
    """Create a database; False when it was there already.

    `template` is copied, and nobody may be connected to it; `like` is a database whose encoding,
    locale and tablespace an otherwise empty one takes. Raises RefusedError.
    """
    options = await _locale_of(admin, like) if like is not None else []
    if like is not None:
        template = "template0"  # only template0 may be copied with another locale
    if template is not None:
        options.append(f"TEMPLATE {_quoted(template)}")
        if like is None and _version(admin) >= (15,):
            options.append("STRATEGY FILE_COPY")
    if owner is not None:
        options.append(f"OWNER {_quoted(owner)}")
    try:
        await _do(admin, " ".join([f"CREATE DATABASE {_quoted(name)}", *options]))
    except DBAPIError as error:
        # two at once meet in the catalog's unique index, not in the check before it
        if _code(error) in (_DUPLICATE_DATABASE, _UNIQUE_VIOLATION):
            return False
        if _code(error) == _IN_USE:
            source = template or "template1"
            raise _in_use(f"copy database {source!r}", await others(admin, source)) from None
        raise
    return True


async def drop(admin: AsyncConnection, name: str) -> None:
    """Drop it if it is there. Raises RefusedError when somebody is connected."""
    try:
        await _do(admin, f"DROP DATABASE IF EXISTS {_quoted(name)}")
    except DBAPIError as error:
        if _code(error) != _IN_USE:
            raise
        raise _in_use(f"drop database {name!r}", await others(admin, name)) from None


async def others(admin: AsyncConnection, name: str) -> tuple[Session, ...]:
    """Who would stand in the way of a copy, rename or drop of database `name`."""
    rows = await _rows(
        admin,
        """
        select pid, coalesce(application_name, ''), coalesce(usename, ''), state,
               extract(epoch from clock_timestamp() - query_start)::float8
        from pg_stat_activity
        where datname = :name and pid <> pg_backend_pid()
          -- autovacuum has no user, and the server ends it by itself; the type is null for a
          -- role that may not look
          and usesysid is not null and coalesce(backend_type, '') <> 'parallel worker'
        union all
        select 0, gid, owner, 'prepared', extract(epoch from clock_timestamp() - prepared)::float8
        from pg_prepared_xacts where database = :name
        order by 1
        """,
        name=name,
    )
    return tuple(Session(*row) for row in rows)


async def disconnect(admin: AsyncConnection, name: str) -> None:
    """End every session on database `name` and wait until they are gone, at most 10 s.

    Raises RefusedError when some stay, or come back.
    """
    deadline = time.monotonic() + DISCONNECT_LIMIT_S
    while sessions := await others(admin, name):
        await _end(admin, name, sessions)
        if time.monotonic() > deadline or not any(session.pid for session in sessions):
            raise _in_use(f"empty database {name!r} of sessions", sessions)
        await asyncio.sleep(_POLL_S)


async def settings(admin: AsyncConnection, name: str) -> Settings:
    """What a template copy of `name` would lose. Raises RefusedError when there is no `name`."""
    rows = await _rows(
        admin,
        """
        select pg_get_userbyid(datdba), shobj_description(oid, 'pg_database'),
               datconnlimit, datacl is not null
        from pg_database where datname = :name
        """,
        name=name,
    )
    if not rows:
        raise _missing(name)
    owner, comment, limit, has_grants = rows[0]
    grants = await _rows(
        admin,
        """
        select r.rolname, a.privilege_type, bool_or(a.is_grantable)
        from pg_database d cross join aclexplode(d.datacl) a
        left join pg_roles r on r.oid = a.grantee
        where d.datname = :name and (a.grantee = 0 or r.oid is not null)
        group by 1, 2 order by 1 nulls first, 2
        """,
        name=name,
    )
    variables = await _rows(
        admin,
        """
        select r.rolname, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
        from pg_db_role_setting s
        join pg_database d on d.oid = s.setdatabase
        cross join unnest(s.setconfig) c
        left join pg_roles r on r.oid = s.setrole
        where d.datname = :name
        order by 1 nulls first, 2
        """,
        name=name,
    )
    return Settings(
        owner=owner,
        grants=tuple(Grant(*row) for row in grants) if has_grants else None,
        variables=tuple(Setting(*row) for row in variables),
        comment=comment,
        connection_limit=limit,
    )


async def apply_settings(admin: AsyncConnection, name: str, settings: Settings) -> tuple[str, ...]:
    """Give a database fresh from `create` another's settings.

    Returns what the server did not let this role apply, without values: refuse to swap in a
    database that lacks a revoke, say.
    """
    database = _quoted(name)
    owner = _quoted(settings.owner)
    acts = [("the owner", f"ALTER DATABASE {database} OWNER TO {owner}")]
    if settings.grants is not None:
        acts.append(("revokes", f"REVOKE ALL ON DATABASE {database} FROM PUBLIC, {owner}"))
    for grant in settings.grants or ():
        role = "PUBLIC" if grant.role is None else _quoted(grant.role)
        option = " WITH GRANT OPTION" if grant.grantable else ""
        sql = f"GRANT {grant.privilege} ON DATABASE {database} TO {role}{option}"
        acts.append((f"{grant.privilege} for {role}", sql))
    for variable in settings.variables:
        whose = f"ALTER DATABASE {database}"
        if variable.role is not None:
            whose = f"ALTER ROLE {_quoted(variable.role)} IN DATABASE {database}"
        sql = f"{whose} SET {_quoted(variable.name)} TO {_value(variable)}"
        acts.append((f"{variable.name} for {variable.role or 'everyone'}", sql))
    if settings.comment is not None:
        acts.append(("the comment", _comment(name, settings.comment)))
    limit = f"ALTER DATABASE {database} CONNECTION LIMIT {settings.connection_limit}"
    acts.append(("the connection limit", limit))
    refused = []
    for what, sql in acts:
        try:
            await _do(admin, sql)
        except DBAPIError as error:
            if error.connection_invalidated:
                error.statement = f"({what} of database {database})"  # the SQL holds the value
                raise
            refused.append(f"{what} (SQLSTATE {_code(error)})")
    return tuple(refused)


async def set_comment(admin: AsyncConnection, name: str, comment: str | None) -> None:
    await _do(admin, _comment(name, comment))


async def swap(
    admin: AsyncConnection,
    live: str,
    replacement: str,
    aside: str,
    *,
    disconnect_others: bool,
    terminate: Terminate | None = None,
) -> None:
    """Rename `live` to `aside` and `replacement` to `live`, both or neither, within 30 s.

    With `disconnect_others`, `terminate` ends the sessions on both while the rename waits for
    them; without, any session is a refusal. Raises RefusedError; then nothing was renamed.
    """
    if disconnect_others and terminate is None:
        raise TypeError("disconnect_others needs terminate, a second connection")
    for name in (live, replacement):
        if not await exists(admin, name):
            raise _missing(name)
    if await exists(admin, aside):
        raise RefusedError(f"database {aside!r} is there already; nothing was renamed")
    act = f"swap database {live!r}"
    if not disconnect_others and (sessions := await _on(admin, live, replacement)):
        raise _in_use(act, sessions)
    deadline = time.monotonic() + SWAP_LIMIT_S
    pause = _POLL_S
    async with contextlib.AsyncExitStack() as stack:
        second = await stack.enter_async_context(terminate()) if terminate else None
        while True:
            ending, stop = None, asyncio.Event()
            if disconnect_others and second is not None:
                ending = asyncio.create_task(_keep_ending(second, stop, live, replacement))
            try:
                await _whole(_rename(admin, live, replacement, aside))
                return
            except DBAPIError as error:
                if _code(error) not in (_IN_USE, _LOCK_TIMEOUT, _DEADLOCK):
                    raise
                hopeless = not disconnect_others and _code(error) == _IN_USE
                if hopeless or time.monotonic() > deadline:
                    raise _in_use(act, await _on(admin, live, replacement)) from None
            finally:
                stop.set()  # never cancelled: that would cost the second connection
                if ending is not None:
                    await asyncio.wait({ending})
                refusal = ending.exception() if ending is not None else None
            if refusal is not None:
                raise refusal
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)


async def ours(admin: AsyncConnection, live: str) -> list[Ours]:
    """The databases that automigrator keeps beside `live`, oldest stamp first."""
    found = []
    for (name,) in await _rows(admin, "select datname::text from pg_database"):
        match = re.fullmatch(r".*__automigrator_(snapshot|purged)_([0-9A-Za-z]+)", name, re.DOTALL)
        if match is None:
            continue
        kind: Kind = "snapshot" if match[1] == "snapshot" else "purged"
        # made again rather than taken apart: a neighbour's name may begin like ours
        with contextlib.suppress(ValueError):
            if name == _beside(live, kind, match[2]):
                found.append(Ours(name, kind, match[2]))
    return sorted(found, key=lambda each: (each.stamp, each.kind))


def snapshot_name(live: str, stamp: str) -> str:
    """The name of a snapshot of `live`; `stamp` is at most 28 letters and digits."""
    return _beside(live, "snapshot", stamp)


def purged_name(live: str, stamp: str) -> str:
    """The name under which a replaced `live` is set aside; `stamp` as in `snapshot_name`."""
    return _beside(live, "purged", stamp)


async def exclusive_to_target(
    connection: AsyncConnection, schemas: Sequence[str], version_tables: Sequence[VersionTable]
) -> str | None:
    """Why a whole-database act on this connection's database would touch neighbours; None: no.

    `schemas` and `version_tables` are all the target's own. What extensions own is nobody's.
    """
    owner, owns, name = (
        await _rows(
            connection,
            """
            select pg_get_userbyid(datdba), pg_has_role(datdba, 'USAGE'), datname::text
            from pg_database where datname = current_database()
            """,
        )
    )[0]
    if not owns:
        return f"database {name!r} belongs to role {owner!r}, which this role is not a member of"
    tables = await _rows(
        connection,
        """
        select n.nspname::text, c.relname::text, pg_table_is_visible(c.oid),
               (select array_agg(a.attname::text) = array['version_num'] from pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'f', 'm')
          and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
          and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass
                          and d.objid = c.oid and d.deptype = 'e')
        order by 1, 2
        """,
    )
    strangers, histories = [], []
    for schema, table, visible, looks_like_version_table in tables:
        is_own = any(
            own.name == table and (own.schema == schema or (own.schema is None and visible))
            for own in version_tables
        )
        if is_own:
            continue
        if looks_like_version_table:
            histories.append(f"{schema}.{table}")
        elif schema not in schemas:
            strangers.append(f"{schema}.{table}")
    if histories:
        return f"database {name!r} has another history's version table: {_listed(histories)}"
    if strangers:
        return f"database {name!r} has tables outside the target's schemas: {_listed(strangers)}"
    return None


async def _rename(admin: AsyncConnection, live: str, replacement: str, aside: str) -> None:
    await _do(admin, "BEGIN")
    try:
        await _do(admin, "SET LOCAL lock_timeout = '500ms'")
        await _do(admin, f"ALTER DATABASE {_quoted(live)} RENAME TO {_quoted(aside)}")
        await _do(admin, f"ALTER DATABASE {_quoted(replacement)} RENAME TO {_quoted(live)}")
        await _do(admin, "COMMIT")
    except DBAPIError as error:
        if not error.connection_invalidated:
            await _do(admin, "ROLLBACK")
        raise


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end even when cancelled: the cancel would cost the connection its lock.

    A rename takes 6 s at most. The cancellation is raised once it is over.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio complains about it
        raise


async def _keep_ending(admin: AsyncConnection, stop: asyncio.Event, *names: str) -> None:
    while not stop.is_set():
        for name in names:
            await _end(admin, name, await others(admin, name))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _POLL_S)


async def _end(admin: AsyncConnection, name: str, sessions: Iterable[Session]) -> None:
    for session in sessions:
        if not session.pid:
            continue
        try:
            # from the view again: the pid may be somebody else's by now
            await _rows(
                admin,
                """
                select pg_terminate_backend(pid) from pg_stat_activity
                where pid = :pid and datname = :name
                """,
                pid=session.pid,
                name=name,
            )
        except DBAPIError as error:
            if _code(error) != _NO_PRIVILEGE:
                raise
            raise _in_use(
                f"end sessions this role has no right to on {name!r}", [session]
            ) from None


async def _on(admin: AsyncConnection, *names: str) -> list[Session]:
    return [session for name in names for session in await others(admin, name)]


async def _locale_of(admin: AsyncConnection, name: str) -> list[str]:
    rows = await _rows(
        admin,
        """
        select to_jsonb(d) - 'datacl', pg_encoding_to_char(d.encoding), t.spcname::text
        from pg_database d join pg_tablespace t on t.oid = d.dattablespace
        where d.datname = :name
        """,
        name=name,
    )
    if not rows:
        raise _missing(name)
    row, encoding, tablespace = rows[0]
    provider = row.get("datlocprovider", "c")  # from 15 on
    locale = row.get("datlocale") or row.get("daticulocale")  # from 17 on, or 15 and 16
    values = {
        "ENCODING": encoding,
        "LC_COLLATE": row["datcollate"],
        "LC_CTYPE": row["datctype"],
        "ICU_LOCALE": locale if provider == "i" else None,
        "ICU_RULES": row.get("daticurules"),
        "BUILTIN_LOCALE": locale if provider == "b" else None,
    }
    options = [f"{key} {_literal(value)}" for key, value in values.items() if value is not None]
    if provider != "c":
        options.append(f"LOCALE_PROVIDER {'icu' if provider == 'i' else 'builtin'}")
    elif "datlocprovider" in row:
        options.append("LOCALE_PROVIDER libc")
    return [*options, f"TABLESPACE {_quoted(tablespace)}"]


def _beside(live: str, kind: Kind, stamp: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z]{1,28}", stamp):
        raise ValueError(f"stamp {stamp!r} is not 1 to 28 letters and digits")
    tail = f"__automigrator_{kind}_{stamp}"
    room = _NAME_LIMIT - len(tail)
    if len(live.encode()) > room:
        digest = hashlib.blake2b(live.encode(), digest_size=5).hexdigest()
        cut = live.encode()[: room - len(digest) - 1].decode(errors="ignore")
        live = f"{cut}_{digest}"
    return live + tail


def _in_use(act: str, sessions: Sequence[Session]) -> RefusedError:
    who = _listed([str(session) for session in sessions]) or "somebody who has left since"
    return RefusedError(
        f"cannot {act}: connected: {who}; no database was changed; stop these sessions, "
        "or allow it with disconnect_others=True"
    )


def _missing(name: str) -> RefusedError:
    return RefusedError(f"database {name!r} does not exist; nothing was changed")


def _listed(items: Sequence[str], most: int = 5) -> str:
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return ", ".join([*items[:most], *more])


def _comment(name: str, comment: str | None) -> str:
    value = "NULL" if comment is None else _literal(comment)
    return f"COMMENT ON DATABASE {_quoted(name)} IS {value}"


def _value(variable: Setting) -> str:
    if variable.name.lower() not in _LISTS:
        return _literal(variable.value)
    parts = re.findall(r'"((?:[^"]|"")*)"|([^,\s"][^,"]*)', variable.value)
    items = [quoted.replace('""', '"') or bare.strip() for quoted, bare in parts]
    return ", ".join(_literal(item) for item in items) or "''"


def _quoted(identifier: str) -> str:
    if "\0" in identifier or not identifier:
        raise ValueError("an identifier is neither empty nor does it hold a null character")
    return '"' + identifier.replace('"', '""') + '"'


def _literal(value: str) -> str:
    quoted = "'" + value.replace("'", "''") + "'"
    # E'' means the same whatever standard_conforming_strings says
    return " E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


def _code(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _version(connection: AsyncConnection) -> tuple[Any, ...]:
    return connection.dialect.server_version_info or ()


async def _do(connection: AsyncConnection, sql: str) -> None:
    # a colon in a name is no parameter, and text() also minds the driver's percent signs
    await connection.execute(text(sql.replace(":", "\\:")))


async def _rows(connection: AsyncConnection, sql: str, **parameters: Any) -> Sequence[Any]:
    return (await connection.execute(text(sql), parameters)).all()
