"""Whole PostgreSQL databases: create, copy, drop, swap, and who is connected.

`admin` is always an AUTOCOMMIT connection to another database of the same server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.postgresql.copying import file_clones
from automigrator.backends.postgresql.errors import NO_PRIVILEGE, Session, in_use, missing, own_code
from automigrator.backends.postgresql.names import OURS
from automigrator.backends.postgresql.sql import literal, quoted_name, rows_of, run, server_version
from automigrator.errors import RefusedError
from automigrator.support.backoff import Backoff, Deadline
from automigrator.support.concurrency import background, shielded

SecondConnection = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

"""Opens a second AUTOCOMMIT connection to a maintenance database."""

GRACE_S = 1.0

"""Seconds in which sessions leave that were just closed, or that look in for a moment."""

DEAD_LEADER_S = 10.0

"""Seconds in which the sessions of a killed process leave the server."""

DISCONNECT_LIMIT_S = 10.0

SWAP_LIMIT_S = 30.0

_POLL_S = 0.05

_DUPLICATE_DATABASE, _UNIQUE_VIOLATION = "42P04", "23505"

_IN_USE, _LOCK_TIMEOUT, _DEADLOCK = "55006", "55P03", "40P01"


async def exists(admin: AsyncConnection, name: str) -> bool:
    query = "select 1 from pg_catalog.pg_database where datname operator(pg_catalog.=) :name"
    return bool(await rows_of(admin, query, name=name))


async def oid(admin: AsyncConnection, name: str) -> int | None:
    """Return what tells a database from another one that has its name later."""
    query = "select oid::bigint from pg_database where datname = :name"
    rows = await rows_of(admin, query, name=name)
    return rows[0][0] if rows else None


async def create(
    admin: AsyncConnection,
    name: str,
    *,
    template: str | None = None,
    like: str | None = None,
    closed: bool = False,
) -> bool:
    """Create a database; False when it was there already.

    `template` is copied, and nobody may be connected to it; `like` is a database whose encoding,
    locale and tablespace an otherwise empty one takes. A `closed` one nobody may connect to until
    `open_up`. Raises RefusedError.
    """
    options = []
    if like is not None:
        # only template0 may be copied with another locale
        options = ["TEMPLATE template0", await _locale_of(admin, like)]
    elif template is not None:
        options = [f"TEMPLATE {quoted_name(template)}"]
        options += ["STRATEGY FILE_COPY"] if server_version(admin) >= (15,) else []
        await file_clones.prefer(admin)
    options += ["ALLOW_CONNECTIONS false"] if closed else []
    try:
        await run(admin, " ".join([f"CREATE DATABASE {quoted_name(name)}", *options]))
    except DBAPIError as error:
        # two at once meet in the catalog's unique index, not in the check before it
        if own_code(error.orig) in (_DUPLICATE_DATABASE, _UNIQUE_VIOLATION):
            return False
        if own_code(error.orig) == _IN_USE:
            source = template or "template1"
            raise in_use(f"copy database {source!r}", await others(admin, source)) from None
        if await file_clones.give_up(admin, error):
            return await create(admin, name, template=template, like=like, closed=closed)
        raise
    return True


async def open_up(admin: AsyncConnection, name: str) -> None:
    await run(admin, f"ALTER DATABASE {quoted_name(name)} ALLOW_CONNECTIONS true")


async def why_no_template(admin: AsyncConnection, name: str) -> str:
    """Say what to do about a database that the server's libraries sort otherwise than it was made.

    No template can be made of it then. Empty where that is not so, or cannot be told.
    """
    if server_version(admin) < (15,):
        return ""
    rows = await rows_of(
        admin,
        "select 1 from pg_database where datname = :name "
        "and coalesce(pg_database_collation_actual_version(oid), '') <> datcollversion",
        name=name,
    )
    if not rows:
        return ""
    quoted = quoted_name(name)
    return (
        f"Database {name!r} was made with another version of its collation than the server has, as "
        f"after an upgrade of its image: connect to it, REINDEX DATABASE {quoted}, then ALTER "
        f"DATABASE {quoted} REFRESH COLLATION VERSION"
    )


async def drop(admin: AsyncConnection, name: str) -> None:
    """Drop it if it is there. Raises RefusedError when somebody is connected."""
    try:
        await run(admin, f"DROP DATABASE IF EXISTS {quoted_name(name)}")
    except DBAPIError as error:
        if own_code(error.orig) != _IN_USE:
            raise
        raise in_use(f"drop database {name!r}", await others(admin, name)) from None


async def rename(admin: AsyncConnection, name: str, to: str) -> None:
    await run(admin, f"ALTER DATABASE {quoted_name(name)} RENAME TO {quoted_name(to)}")


async def set_comment(admin: AsyncConnection, name: str, comment: str) -> None:
    await run(admin, f"COMMENT ON DATABASE {quoted_name(name)} IS {literal(comment)}")


async def others(
    admin: AsyncConnection, *names: str, but_ours: bool = False
) -> tuple[Session, ...]:
    """Return the sessions that would stand in the way of a copy, rename or drop of databases.

    With `but_ours` those are left out that wait for a lock of ours, or hold it, by their names and
    their roles.
    """
    rows = await rows_of(
        admin,
        f"""
        select pid, coalesce(application_name, ''), coalesce(usename, ''), state,
               extract(epoch from clock_timestamp() - query_start)::float8
        from pg_stat_activity
        where datname = any(cast(:names as text[])) and pid <> pg_backend_pid()
          -- autovacuum has no user, and the server ends it by itself; the type is null for a
          -- role that may not look
          and usesysid is not null and coalesce(backend_type, '') <> 'parallel worker'
          and not (:but_ours and starts_with(application_name, 'automigrator ')
                   and usesysid in {OURS})
        union all
        select 0, gid, owner, 'prepared', extract(epoch from clock_timestamp() - prepared)::float8
        from pg_prepared_xacts where database = any(cast(:names as text[]))
        order by 1
        """,
        names=list(names),
        live=names[0],
        but_ours=but_ours,
    )
    return tuple(Session(*row) for row in rows)


async def ensure_left(
    admin: AsyncConnection,
    act: str,
    *names: str,
    grace_s: float = GRACE_S,
    but_ours: bool = False,
    end: bool = False,
    only: Collection[int] | None = None,
) -> None:
    """Raise RefusedError when somebody stays connected to one of the databases for `grace_s`.

    With `end` the server is told to end them. With `only`, the pids of sessions, others may stay.
    """
    deadline = Deadline(grace_s)
    while True:
        found = await others(admin, *names, but_ours=but_ours)
        sessions = [each for each in found if only is None or each.pid in only]
        if not sessions:
            return
        if end:
            await _end(admin, names, sessions)
        if deadline.is_over() or (end and not any(each.pid for each in sessions)):
            raise in_use(act, sessions)
        await asyncio.sleep(_POLL_S)


async def disconnect(admin: AsyncConnection, name: str) -> None:
    """End every session on a database, newcomers too, and wait until they are gone.

    Raises RefusedError when some stay for 10 s, or come back.
    """
    act = f"empty database {name!r} of sessions"
    await ensure_left(admin, act, name, grace_s=DISCONNECT_LIMIT_S, end=True)


async def end_others(admin: AsyncConnection, name: str) -> None:
    """End the sessions that are there now, ours excepted, and wait until they are gone.

    Newcomers are left alone. Raises RefusedError when some stay for 10 s.
    """
    now = {each.pid for each in await others(admin, name, but_ours=True)}
    act = f"end the sessions on database {name!r}"
    await ensure_left(
        admin, act, name, grace_s=DISCONNECT_LIMIT_S, but_ours=True, end=True, only=now
    )


@asynccontextmanager
async def ending(
    second: SecondConnection, *names: str, but_ours: bool = False
) -> AsyncIterator[asyncio.Future[None]]:
    """Context manager: end every session on the databases, and those that come, to the end.

    Yields the task that does so; it ends early only when it is refused. A RefusedError of the
    block is replaced by the task's own, which knows why somebody is still connected.
    """
    stop = asyncio.Event()

    async def end(admin: AsyncConnection) -> None:
        while not stop.is_set():
            await _end(admin, names, await others(admin, *names, but_ours=but_ours))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _POLL_S)

    # never cancelled: that would cost the second connection
    async with second() as admin, background(end(admin), stop.set) as task:
        try:
            yield task
        except RefusedError:
            stop.set()
            await task
            raise


async def swap(
    admin: AsyncConnection,
    live: str,
    replacement: str,
    aside: str,
    *,
    disconnect_by: SecondConnection | None = None,
    comment: str | None = None,
) -> None:
    """Rename `live` to `aside` and `replacement` to `live`, both or neither, within 30 s.

    `comment`: what `aside` is to say from then on.

    The sessions on both are ended through `disconnect_by` while the rename waits for them; by
    default any session is a refusal. Raises RefusedError; then nothing was renamed.
    """
    for name in (live, replacement):
        if not await exists(admin, name):
            raise missing(name)
    if await exists(admin, aside):
        raise RefusedError(f"database {aside!r} is there already; nothing was renamed")
    act = f"swap database {live!r}"
    if disconnect_by is None:
        await ensure_left(admin, act, live, replacement)
    deadline, backoff = Deadline(SWAP_LIMIT_S), Backoff(_POLL_S, 1.0)
    alone = ending(disconnect_by, live, replacement) if disconnect_by else nullcontext()
    async with alone as helper:
        while True:
            try:
                await shielded(_rename(admin, live, replacement, aside, comment))
                return
            except DBAPIError as error:
                if own_code(error.orig) not in (_IN_USE, _LOCK_TIMEOUT, _DEADLOCK):
                    raise
                hopeless = own_code(error.orig) == _IN_USE if helper is None else helper.done()
                if hopeless or deadline.is_over():
                    raise in_use(act, await others(admin, live, replacement)) from None
            await backoff.sleep()


async def _rename(
    admin: AsyncConnection, live: str, replacement: str, aside: str, comment: str | None
) -> None:
    await run(admin, "BEGIN")
    try:
        await run(admin, "SET LOCAL lock_timeout = '500ms'")
        await rename(admin, live, aside)
        await rename(admin, replacement, live)
        if comment is not None:
            await set_comment(admin, aside, comment)
        await run(admin, "COMMIT")
    except DBAPIError as error:
        if not error.connection_invalidated:
            await run(admin, "ROLLBACK")
        raise


async def _end(admin: AsyncConnection, names: Collection[str], sessions: Iterable[Session]) -> None:
    for session in sessions:
        if not session.pid:
            continue
        try:
            # from the view again: the pid may be somebody else's by now
            await rows_of(
                admin,
                """
                select pg_terminate_backend(pid) from pg_stat_activity
                where pid = :pid and datname = any(cast(:names as text[]))
                """,
                pid=session.pid,
                names=list(names),
            )
        except DBAPIError as error:
            if own_code(error.orig) != NO_PRIVILEGE:
                raise
            act = f"end a session on {', '.join(names)} that this role has no right to"
            raise in_use(act, [session]) from None


async def _locale_of(admin: AsyncConnection, name: str) -> str:
    rows = await rows_of(
        admin,
        """
        select concat_ws(' ', 'ENCODING ' || quote_literal(pg_encoding_to_char(d.encoding)),
            'LC_COLLATE ' || quote_literal(d.datcollate), 'LC_CTYPE ' || quote_literal(d.datctype),
            -- from 15 on
            'LOCALE_PROVIDER ' || case j->>'datlocprovider' when 'c' then 'libc'
                when 'i' then 'icu' when 'b' then 'builtin' end,
            case j->>'datlocprovider' when 'i' then 'ICU_LOCALE ' when 'b' then 'BUILTIN_LOCALE '
                -- from 17 on, or 15 and 16
                end || quote_literal(coalesce(j->>'datlocale', j->>'daticulocale')),
            'ICU_RULES ' || quote_literal(j->>'daticurules'),
            -- template0's is taken anyhow, and to name it needs a right that few roles have
            'TABLESPACE ' || (select quote_ident(t.spcname) from pg_tablespace t
                              where t.oid = d.dattablespace and t.oid <> z.dattablespace))
        from pg_database d join pg_database z on z.datname = 'template0'
        cross join lateral (select to_jsonb(d) - 'datacl') as more (j) where d.datname = :name
        """,
        name=name,
    )
    if not rows:
        raise missing(name)
    return str(rows[0][0])
