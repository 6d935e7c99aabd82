"""Notes in a target's database: texts that are replaced as a whole, and are ours by their owner.

A note is the comment on a type in a schema of ours, where autogenerate does not see it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.access import Access
from automigrator.backends.postgresql.names import OURS_HERE, SCHEMA_OF_OURS
from automigrator.backends.postgresql.sql import (
    SERVER,
    handed_on,
    literal,
    quoted_name,
    rows_of,
    run,
    run_together,
    server_version,
)
from automigrator.errors import RefusedError
from automigrator.support.json_object import LIMIT

Note = Literal["last", "works_with", "dump", "checksums"]
"""The last leader's record, the declaration of the code that works with the database, a journal.

And the checksums of applied revisions.
"""


def note_name(kind: Note, key: int) -> str:
    """Name the note of one kind of the target with this lock key, with its schema."""
    return f"{SCHEMA_OF_OURS}.{kind}_{key % 2**64:016x}"


def note_statement(kind: Note, key: int, text: str) -> str:
    """The statement that replaces the text of a note that is there."""
    return f"COMMENT ON DOMAIN {note_name(kind, key)} IS {literal(text)}"


async def read_note(access: Access, kind: Note, key: int) -> str | None:
    """Read a text; None where there is none of ours."""
    async with access.shared() as connection:
        rows = await rows_of(
            connection,
            f"""
            select left(obj_description(t.oid, 'pg_type'), :most)
            from pg_type t join pg_namespace n on n.oid = t.typnamespace
            where n.nspname || '.' || t.typname = :name
                  and n.nspowner in {OURS_HERE} and t.typowner in {OURS_HERE}
            """,
            name=note_name(kind, key),
            most=LIMIT + 1,
        )
    return rows[0][0] if rows else None


_WRITER = f"""
    with ours as materialized (select oid from {OURS_HERE} as o)
    select {SERVER}, current_setting('application_name'),
           set_config('application_name', :session, false),
           extract(epoch from clock_timestamp())::float8, pg_get_userbyid(n.nspowner)::text,
           coalesce(n.nspowner in (select oid from ours), true), pg_has_role(n.nspowner, 'USAGE'),
           pg_get_userbyid(t.typowner)::text, coalesce(t.typowner in (select oid from ours), true),
           pg_has_role(t.typowner, 'USAGE'), current_user::text,
           case when pg_has_role(d.datdba, '{{right}}') then pg_get_userbyid(d.datdba)::text
           when pg_has_role(n.nspowner, '{{right}}') then pg_get_userbyid(n.nspowner)::text
           else current_user::text end,
           exists (select from pg_language where lanname = 'plpgsql'
                   and has_language_privilege(oid, 'USAGE'))
    from pg_database d left join pg_namespace n on n.nspname = '{SCHEMA_OF_OURS}'
    left join pg_type t on t.typnamespace = n.oid and n.nspname || '.' || t.typname = :name
    where d.datname = current_database()
"""


async def write_note(
    connection: AsyncConnection,
    kind: Note,
    key: int,
    text: Callable[[float], str | None],
    session: str,
    ready: Callable[[int], Awaitable[None]],
) -> None:
    """Replace a text, whole or not at all; None removes it.

    `text` gets the time on the server's clock. `session` is what the connection's is called
    meanwhile; `ready` is awaited then, gets its server (`sql.SERVER`), and may raise. It is written
    as the database's owner where this role may act as it, else as the schema's: the application's
    next login finds it then. Raises RefusedError where the place is not ours.
    """
    right = "SET" if server_version(connection) >= (16,) else "MEMBER"
    query = _WRITER.format(right=right)
    ((server, before, _, *found, has_blocks),) = await rows_of(
        connection, query, name=note_name(kind, key), session=session
    )
    name_back = named_again(before)
    try:
        await ready(server)
        if statements := _writing(kind, key, text, *found):
            # psycopg forgets each statement that it has prepared when the server answers DROP;
            # behind a pooler it had better
            if statements[0].startswith("DROP") and has_blocks and not handed_on(connection):
                statements = [f"DO LANGUAGE plpgsql {literal(f'BEGIN {statements[0]}; END')}"]
            await run_together(connection, [*statements, name_back])
            return
    except BaseException:
        with suppress(SQLAlchemyError, OSError):
            await run(connection, "ROLLBACK")
        with suppress(SQLAlchemyError, OSError):
            await run(connection, name_back)
        raise
    await run(connection, name_back)


def named_again(name: str) -> str:
    """The statement that gives a session its name back.

    Safe under any path: behind a pooler a COMMIT has given the session its own back.
    """
    return f"select pg_catalog.set_config('application_name', {literal(name)}, false)"


def _writing(
    kind: Note,
    key: int,
    text: Callable[[float], str | None],
    now: float,
    holder: str | None,
    kept: bool,
    mine: bool | None,
    owner: str | None,
    own: bool,
    owned: bool | None,
    me: str,
    writer: str,
) -> list[str]:
    """The statements that replace a text; the owners are as `_WRITER` has found them."""
    qualified = note_name(kind, key)
    new = text(now)
    if new is None:
        there = owner is not None and own and kept
        return [f"DROP DOMAIN IF EXISTS {qualified}"] if there else []
    if not (own and kept):
        what, whose = ("domain", owner) if kept else ("schema", holder)
        named = qualified if kept else SCHEMA_OF_OURS
        raise RefusedError(
            f"{what} {named} belongs to role {whose!r}, which is not trusted with this database: "
            f"nothing is kept there. Drop it, or ALTER {what.upper()} {named} OWNER TO "
            f"{quoted_name(writer)}"
        )
    to = quoted_name(writer)
    if owner not in (None, writer, me) and not owned:
        raise RefusedError(
            f"domain {qualified} belongs to role {owner!r}, and this role may not change it. Where "
            "that is the role that migrates, run with it: Target(migrate_with=...). Where it is a "
            f"former login, it or a superuser can ALTER DOMAIN {qualified} OWNER TO {to}, and "
            f"ALTER SCHEMA {SCHEMA_OF_OURS} OWNER TO {to}"
        )
    statements = ["BEGIN"]
    # left by a login of before, or by a superuser
    if holder not in (None, writer) and mine and writer != me:
        statements.append(f"ALTER SCHEMA {SCHEMA_OF_OURS} OWNER TO {to}")
    if owner not in (None, writer) and owned and writer != me:
        statements.append(f"ALTER DOMAIN {qualified} OWNER TO {to}")
    if writer != me:
        statements.append(f"SET LOCAL ROLE {to}")
    if holder is None:
        statements.append(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA_OF_OURS}")
    if owner is None:
        statements.append(f"CREATE DOMAIN {qualified} AS text")
    return [*statements, note_statement(kind, key, new), "COMMIT"]
