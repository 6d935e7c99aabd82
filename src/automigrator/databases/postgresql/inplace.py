"""Puts a dump back into the database it was made of, in one transaction of the server."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from automigrator.databases.postgresql import contents, dump_records
from automigrator.databases.postgresql.children import run
from automigrator.databases.postgresql.clients import Clients
from automigrator.databases.postgresql.contents import USERS, not_of_an_extension
from automigrator.databases.postgresql.dump_records import DumpRecord
from automigrator.databases.postgresql.psql import Psql, transaction
from automigrator.databases.postgresql.scene import Scene, kept_alone
from automigrator.databases.postgresql.sessions import SERVER
from automigrator.databases.postgresql.sql import literal, rows_of
from automigrator.errors import RefusedError
from automigrator.threads import in_thread

LOCK_S = 10
"""Seconds that the restore waits for the lock of one table."""

_LOCK = f"""
    select format('LOCK TABLE %I.%I IN {{mode}} MODE', n.nspname, c.relname)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and {USERS} and {not_of_an_extension("pg_class", "c.oid")}
    order by 1 \\gexec
"""
# all that stands in a schema by itself: what belongs to a table, say, goes with it
_DROP = f"""
    select format('DROP %s IF EXISTS %s CASCADE',
                  case i.type when 'statistics object' then 'STATISTICS'
                  when 'composite type' then 'TYPE' else i.type end, i.identity)
    from (select distinct d.classid, d.objid from pg_depend d
          join pg_namespace n on n.oid = d.refobjid
          where d.refclassid = 'pg_namespace'::regclass and d.deptype = 'n' and {USERS}
            and d.classid <> 'pg_default_acl'::regclass
            and not exists (select from pg_depend e where e.classid = d.classid
                            and e.objid = d.objid and e.objsubid = 0
                            and e.deptype in ('e', 'i'))) o
    cross join pg_identify_object(o.classid, o.objid, 0) i
    order by o.classid <> 'pg_class'::regclass, 1 \\gexec
"""
_STAYING = f"""
    select n.nspname from pg_namespace n
    where n.nspname = 'public' or ({USERS} and (
        exists (select from pg_depend d join pg_depend e
                on e.classid = d.classid and e.objid = d.objid and e.deptype = 'e'
                where d.refclassid = 'pg_namespace'::regclass and d.refobjid = n.oid)
        or exists (select from pg_extension x where x.extnamespace = n.oid)))
    order by 1;
"""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How what a restore replaces is kept: written while nobody else can write, then named."""

    write: Callable[[], Awaitable[None]]
    publish: Callable[[], Awaitable[None]]


async def restore(
    scene: Scene, record: DumpRecord, clients: Clients, after: DumpRecord, keeping: Keeping
) -> None:
    """Replace all that the database holds by the dump, and its record by `after`, or nothing.

    Raises RefusedError; then the transaction was rolled back, or never begun.
    """
    async with _emptied(scene, record, clients, keeping.write) as (psql, archive):
        await psql.restore(*archive, record.path)
        await _compare(psql, record, data=True)
        await psql.ask(dump_records.said(scene.hold.key, after) + ";")
        await keeping.publish()  # a COMMIT whose answer is lost may have been one
        await scene.hold.confirm()  # or another process may be at the database by now
        await psql.commit()


async def rehearse(scene: Scene, record: DumpRecord, clients: Clients) -> None:
    """Restore the dump's schema without its rows, and roll that back: what it needs is there."""
    async with _emptied(scene, record, clients) as (psql, archive):
        sections = ("--section=pre-data", "--section=post-data")
        await psql.restore(*sections, *archive, record.path)
        await _compare(psql, record, data=False)


@asynccontextmanager
async def _emptied(
    scene: Scene,
    record: DumpRecord,
    clients: Clients,
    keep: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[tuple[Psql, Sequence[str]]]:
    """A transaction in which the target is locked and empty, and what pg_restore is told of it.

    What it held is given to `keep` when nobody else can write any more.
    """
    env = await scene.environment()
    async with transaction(clients, env) as psql:
        await _same_database(scene, psql)
        await psql.ask(f"SET LOCAL lock_timeout = '{LOCK_S}s'; SET LOCAL search_path = '';")
        if keep is not None:
            await _locked(scene, psql, record, "EXCLUSIVE")  # which lets pg_dump read
            shape = await psql.ask(contents.SHAPE + ";")
            await keep()
        await _locked(scene, psql, record, "ACCESS EXCLUSIVE")
        if keep is not None and await psql.ask(contents.SHAPE + ";") != shape:
            raise RefusedError(
                f"somebody has changed the schema of database {scene.live!r} while what the "
                "restore would replace was being dumped; that was rolled back"
            )
        await psql.ask("SET LOCAL client_min_messages = error;")
        await psql.ask(_DROP)
        await _extensions(psql, record)
        staying = await psql.ask(_STAYING)
        kept = ", ".join(literal(name) for name in staying)
        await psql.ask(
            f"""
            select format('DROP SCHEMA %I', n.nspname) from pg_namespace n
            where {USERS} and n.nspname not in ({kept or "''"}) order by 1 \\gexec
            """
        )
        with tempfile.TemporaryDirectory(prefix="automigrator-") as folder:
            yield psql, await _selection(record.path, clients, env, staying, Path(folder))


async def _locked(scene: Scene, psql: Psql, record: DumpRecord, mode: str) -> None:
    act = f"restore database {scene.live!r}"
    async with kept_alone(scene, act, record.disconnect_others):
        await psql.ask(_LOCK.format(mode=mode))


async def _extensions(psql: Psql, record: DumpRecord) -> None:
    """Drop what has been added since, and add what is missing."""
    names = ", ".join(literal(name) for name, _, _ in record.extensions) or "''"
    await psql.ask(
        f"""
        select format('DROP EXTENSION %I', extname) from pg_extension
        where extname not in ({names}) order by oid desc \\gexec
        """
    )
    for name, schema, version in record.extensions:
        await psql.ask(
            f"""
            select format('CREATE EXTENSION %I SCHEMA %I VERSION %L', {literal(name)},
                          {literal(schema)}, {literal(version)})
            where not exists (select from pg_extension where extname = {literal(name)}) \\gexec
            """
        )


async def _same_database(scene: Scene, psql: Psql) -> None:
    async with scene.access.connection(autocommit=True) as connection:
        expected = (await rows_of(connection, contents.IDENTITY))[0][0]
        scene.hold.rule((await rows_of(connection, f"select {SERVER}"))[0][0])
    if await psql.ask(contents.IDENTITY + ";") != [expected]:
        raise RefusedError(
            "psql was led to another database than the application is; nothing was changed. "
            "Look at what PGHOST and the other PG* variables say"
        )


async def _compare(psql: Psql, record: DumpRecord, *, data: bool) -> None:
    await psql.ask("SET LOCAL search_path = '';")
    same = await psql.ask(contents.SHAPE + ";") == [record.shape]
    if same and data:
        await psql.ask("SET LOCAL row_security = off;")
        tables = await psql.ask(contents.TABLES + ";")
        same = await psql.ask(contents.rows(tables) + ";") == [record.rows]
    if not same:
        what = "rows" if data else "schema"
        raise RefusedError(
            f"the {what} put back from {record.path} would not be those that were copied; "
            "that was rolled back"
        )


async def _selection(
    path: str, clients: Clients, env: dict[str, str], staying: Sequence[str], folder: Path
) -> Sequence[str]:
    """pg_restore's list of the archive without extensions and schemas that were not dropped."""
    listing = folder / "listing"
    await run(clients.program("pg_restore"), "-l", "-f", str(listing), path, env=env)
    names = "|".join(re.escape(name) for name in staying) or "(?!)"  # or nothing
    left_out = re.compile(
        rf"\d+; \d+ \d+ (?:(?:ACL|COMMENT|SECURITY LABEL) - SCHEMA (?:{names}) "
        rf"|SCHEMA - (?:{names}) |EXTENSION - |COMMENT - EXTENSION )"
    )

    def cut() -> None:
        lines = listing.read_bytes().decode(errors="surrogateescape").splitlines(keepends=True)
        kept = "".join(line for line in lines if not left_out.match(line))
        listing.write_bytes(kept.encode(errors="surrogateescape"))

    await in_thread(cut)
    return ("-L", str(listing))
