"""Whole PostgreSQL databases: create, copy, drop, swap, and who is connected.

`admin` is always an AUTOCOMMIT connection to another database of the same server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.postgresql.refusals import Session, in_use, missing
from automigrator.backends.postgresql.sql import (
    literal,
    quoted_name,
    rows_of,
    run,
    server_version,
    sqlstate,
)
from automigrator.errors import RefusedError
from automigrator.support.concurrency import to_the_end

Terminate = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

"""Opens a second AUTOCOMMIT connection to a maintenance database."""

GRACE_S = 1.0

"""Seconds in which sessions leave that were just closed, or that look in for a moment."""

DISCONNECT_LIMIT_S = 10.0

SWAP_LIMIT_S = 30.0

_POLL_S = 0.05

_DUPLICATE_DATABASE, _UNIQUE_VIOLATION = "42P04", "23505"

_IN_USE, _LOCK_TIMEOUT, _DEADLOCK, _NO_PRIVILEGE = "55006", "55P03", "40P01", "42501"


async def exists(admin: AsyncConnection, name: str) -> bool:
    return bool(await rows_of(admin, "select 1 from pg_database where datname = :name", name=name))


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
        options.append(f"TEMPLATE {quoted_name(template)}")
        if like is None and server_version(admin) >= (15,):
            options.append("STRATEGY FILE_COPY")
    if owner is not None:
        options.append(f"OWNER {quoted_name(owner)}")
    try:
        await run(admin, " ".join([f"CREATE DATABASE {quoted_name(name)}", *options]))
    except DBAPIError as error:
        # two at once meet in the catalog's unique index, not in the check before it
        if sqlstate(error) in (_DUPLICATE_DATABASE, _UNIQUE_VIOLATION):
            return False
        if sqlstate(error) == _IN_USE:
            source = template or "template1"
            raise in_use(f"copy database {source!r}", await others(admin, source)) from None
        raise
    return True


async def drop(admin: AsyncConnection, name: str) -> None:
    """Drop it if it is there. Raises RefusedError when somebody is connected."""
    try:
        await run(admin, f"DROP DATABASE IF EXISTS {quoted_name(name)}")
    except DBAPIError as error:
        if sqlstate(error) != _IN_USE:
            raise
        raise in_use(f"drop database {name!r}", await others(admin, name)) from None


async def others(
    admin: AsyncConnection, name: str, *, but_ours: bool = False
) -> tuple[Session, ...]:
    """Who would stand in the way of a copy, rename or drop of database `name`.

    With `but_ours` not who is called as sessions are that wait for a lock of ours, or hold it.
    """
    rows = await rows_of(
        admin,
        """
        select pid, coalesce(application_name, ''), coalesce(usename, ''), state,
               extract(epoch from clock_timestamp() - query_start)::float8
        from pg_stat_activity
        where datname = :name and pid <> pg_backend_pid()
          -- autovacuum has no user, and the server ends it by itself; the type is null for a
          -- role that may not look
          and usesysid is not null and coalesce(backend_type, '') <> 'parallel worker'
          and not (:but_ours and starts_with(application_name, 'automigrator '))
        union all
        select 0, gid, owner, 'prepared', extract(epoch from clock_timestamp() - prepared)::float8
        from pg_prepared_xacts where database = :name
        order by 1
        """,
        name=name,
        but_ours=but_ours,
    )
    return tuple(Session(*row) for row in rows)


async def ensure_left(
    admin: AsyncConnection,
    act: str,
    *names: str,
    grace_s: float = GRACE_S,
    but_ours: bool = False,
) -> None:
    """Raise RefusedError when somebody stays connected to one of the databases."""
    deadline = time.monotonic() + grace_s
    while sessions := await _on(admin, *names, but_ours=but_ours):
        if time.monotonic() > deadline:
            raise in_use(act, sessions)
        await asyncio.sleep(_POLL_S)


async def disconnect(admin: AsyncConnection, name: str) -> None:
    """End every session on database `name` and wait until they are gone, at most 10 s.

    Raises RefusedError when some stay, or come back.
    """
    deadline = time.monotonic() + DISCONNECT_LIMIT_S
    while sessions := await others(admin, name):
        await _end(admin, name, sessions)
        if time.monotonic() > deadline or not any(session.pid for session in sessions):
            raise in_use(f"empty database {name!r} of sessions", sessions)
        await asyncio.sleep(_POLL_S)


async def end_others(admin: AsyncConnection, name: str) -> None:
    """End who is connected now, sessions of ours excepted, and wait until they are gone.

    Who comes meanwhile is left alone. Raises RefusedError when some stay for 10 s.
    """
    deadline = time.monotonic() + DISCONNECT_LIMIT_S
    asked = {session.pid for session in await others(admin, name, but_ours=True)}
    while sessions := [s for s in await others(admin, name, but_ours=True) if s.pid in asked]:
        await _end(admin, name, sessions)
        if time.monotonic() > deadline or not any(session.pid for session in sessions):
            raise in_use(f"end the sessions on database {name!r}", sessions)
        await asyncio.sleep(_POLL_S)


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
            raise missing(name)
    if await exists(admin, aside):
        raise RefusedError(f"database {aside!r} is there already; nothing was renamed")
    act = f"swap database {live!r}"
    if not disconnect_others:
        await ensure_left(admin, act, live, replacement)
    deadline = time.monotonic() + SWAP_LIMIT_S
    pause = _POLL_S
    async with contextlib.AsyncExitStack() as stack:
        second = await stack.enter_async_context(terminate()) if terminate else None
        while True:
            ending, stop = None, asyncio.Event()
            if disconnect_others and second is not None:
                ending = asyncio.create_task(keep_ending(second, stop, live, replacement))
            try:
                await to_the_end(_rename(admin, live, replacement, aside))
                return
            except DBAPIError as error:
                if sqlstate(error) not in (_IN_USE, _LOCK_TIMEOUT, _DEADLOCK):
                    raise
                hopeless = not disconnect_others and sqlstate(error) == _IN_USE
                if hopeless or time.monotonic() > deadline:
                    raise in_use(act, await _on(admin, live, replacement)) from None
            finally:
                stop.set()  # never cancelled: that would cost the second connection
                if ending is not None:
                    await asyncio.wait({ending})
                refusal = ending.exception() if ending is not None else None
            if refusal is not None:
                raise refusal
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)


async def _rename(admin: AsyncConnection, live: str, replacement: str, aside: str) -> None:
    await run(admin, "BEGIN")
    try:
        await run(admin, "SET LOCAL lock_timeout = '500ms'")
        await run(admin, f"ALTER DATABASE {quoted_name(live)} RENAME TO {quoted_name(aside)}")
        await run(admin, f"ALTER DATABASE {quoted_name(replacement)} RENAME TO {quoted_name(live)}")
        await run(admin, "COMMIT")
    except DBAPIError as error:
        if not error.connection_invalidated:
            await run(admin, "ROLLBACK")
        raise


async def keep_ending(
    admin: AsyncConnection, stop: asyncio.Event, *names: str, but_ours: bool = False
) -> None:
    """End every session on the databases, and those that come, until `stop`."""
    while not stop.is_set():
        for name in names:
            await _end(admin, name, await others(admin, name, but_ours=but_ours))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _POLL_S)


async def _end(admin: AsyncConnection, name: str, sessions: Iterable[Session]) -> None:
    for session in sessions:
        if not session.pid:
            continue
        try:
            # from the view again: the pid may be somebody else's by now
            await rows_of(
                admin,
                """
                select pg_terminate_backend(pid) from pg_stat_activity
                where pid = :pid and datname = :name
                """,
                pid=session.pid,
                name=name,
            )
        except DBAPIError as error:
            if sqlstate(error) != _NO_PRIVILEGE:
                raise
            raise in_use(f"end sessions this role has no right to on {name!r}", [session]) from None


async def _on(admin: AsyncConnection, *names: str, but_ours: bool = False) -> list[Session]:
    return [s for name in names for s in await others(admin, name, but_ours=but_ours)]


async def _locale_of(admin: AsyncConnection, name: str) -> list[str]:
    rows = await rows_of(
        admin,
        """
        select to_jsonb(d) - 'datacl', pg_encoding_to_char(d.encoding), t.spcname::text
        from pg_database d join pg_tablespace t on t.oid = d.dattablespace
        where d.datname = :name
        """,
        name=name,
    )
    if not rows:
        raise missing(name)
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
    options = [f"{key} {literal(value)}" for key, value in values.items() if value is not None]
    if provider != "c":
        options.append(f"LOCALE_PROVIDER {'icu' if provider == 'i' else 'builtin'}")
    elif "datlocprovider" in row:
        options.append("LOCALE_PROVIDER libc")
    return [*options, f"TABLESPACE {quoted_name(tablespace)}"]
