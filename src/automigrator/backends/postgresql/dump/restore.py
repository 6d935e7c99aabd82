"""Puts a dump back into the database it was made of, in one transaction of the server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from automigrator.backends.postgresql import digests
from automigrator.backends.postgresql.digests import USERS, not_of_an_extension
from automigrator.backends.postgresql.dump import files, journal
from automigrator.backends.postgresql.dump.journal import DumpRecord
from automigrator.backends.postgresql.dump.programs import Clients, run
from automigrator.backends.postgresql.dump.psql import Psql, transaction
from automigrator.backends.postgresql.exclusive import Scene, kept_alone
from automigrator.backends.postgresql.session import SERVER
from automigrator.backends.postgresql.sql import literal, quoted_name, rows_of
from automigrator.errors import RefusedError
from automigrator.support.concurrency import in_thread, to_the_end

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
            and d.classid not in ('pg_default_acl'::regclass, 'pg_extension'::regclass)
            and not exists (select from pg_depend e where e.classid = d.classid
                            and e.objid = d.objid and e.objsubid = 0
                            and e.deptype in ('e', 'i'))) o
    cross join pg_identify_object(o.classid, o.objid, 0) i
    order by o.classid <> 'pg_class'::regclass, 1 \\gexec
"""

_STAYING = f"""
    select n.nspname from pg_namespace n
    where n.nspname in ('public', {{needed}}) or ({USERS} and (
        exists (select from pg_depend d join pg_depend e
                on e.classid = d.classid and e.objid = d.objid and e.deptype = 'e'
                where d.refclassid = 'pg_namespace'::regclass and d.refobjid = n.oid)
        or exists (select from pg_extension x where x.extnamespace = n.oid)))
    order by 1;
"""

# what an extension has marked as the user's own is in the archive: it would be there twice
_CONFIGURATION = """
    select format('DELETE FROM %s %s', c.oid::regclass, x.extcondition[i.at])
    from pg_extension x cross join generate_subscripts(x.extconfig, 1) as i (at)
    join pg_class c on c.oid = x.extconfig[i.at]
    where c.relkind in ('r', 'p') order by x.oid desc, i.at desc \\gexec
"""

# what is made while they stand has other grants than what the archive tells of
_DEFAULT_GRANTS = f"""
    with found as (
        select d.oid, d.defaclacl, d.defaclrole, d.defaclobjtype as type, d.defaclnamespace = 0
               as everywhere, concat_ws(' ', 'ALTER DEFAULT PRIVILEGES FOR ROLE',
               quote_ident(pg_get_userbyid(d.defaclrole)), 'IN SCHEMA ' || quote_ident(n.nspname))
               as begin, case d.defaclobjtype when 'r' then 'TABLES' when 'S' then 'SEQUENCES'
               when 'f' then 'FUNCTIONS' when 'T' then 'TYPES' when 'n' then 'SCHEMAS'
               when 'L' then 'LARGE OBJECTS' end as what
        from pg_default_acl d left join pg_namespace n on n.oid = d.defaclnamespace
        where n.oid is null or ({USERS}))
    select format('%s %s %s ON %s %s %s%s', f.begin, g.verb, g.privilege, f.what, g.way,
        case g.grantee when 0 then 'PUBLIC' else quote_ident(pg_get_userbyid(g.grantee)) end,
        case when g.grantable then ' WITH GRANT OPTION' end)
    from found f cross join lateral (
        select 1 as turn, 'REVOKE' as verb, 'ALL' as privilege, 'FROM' as way, a.grantee,
               false as grantable from aclexplode(f.defaclacl) a group by a.grantee
        union all
        select 2, 'GRANT', a.privilege_type, 'TO', a.grantee, a.is_grantable
        from aclexplode(acldefault(case f.type when 'S' then 's' else f.type end, f.defaclrole)) a
        where f.everywhere) g
    order by f.oid, g.turn \\gexec
"""

# those that a dump may not hold came after it
_BESIDE_SCHEMAS = f"""
    select format('DROP PUBLICATION IF EXISTS %I', o.pubname) from pg_publication o
    where pg_has_role(o.pubowner, 'USAGE') and {not_of_an_extension("pg_publication", "o.oid")}
    union all
    select format('DROP EVENT TRIGGER IF EXISTS %I', o.evtname) from pg_event_trigger o
    where pg_has_role(o.evtowner, 'USAGE') and {not_of_an_extension("pg_event_trigger", "o.oid")}
    union all
    select format('DROP SERVER IF EXISTS %I CASCADE', o.srvname) from pg_foreign_server o
    where pg_has_role(o.srvowner, 'USAGE') and {not_of_an_extension("pg_foreign_server", "o.oid")}
    union all
    select format('DROP FOREIGN DATA WRAPPER IF EXISTS %I CASCADE', o.fdwname)
    from pg_foreign_data_wrapper o where pg_has_role(o.fdwowner, 'USAGE')
      and {not_of_an_extension("pg_foreign_data_wrapper", "o.oid")}
    union all
    select format('select lo_unlink(%s)', o.oid) from pg_largeobject_metadata o
    where pg_has_role(o.lomowner, 'USAGE') \\gexec
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
    async with _emptied(scene, record, clients, keeping.write) as (psql, chosen):
        async with chosen as archive:
            await psql.restore(*archive)
        await _compare(psql, record, data=True)
        await psql.ask(journal.said(scene.hold.key, after) + ";")
        await keeping.publish()  # a COMMIT whose answer is lost may have been one
        await scene.hold.confirm()  # or another process may be at the database by now
        await psql.commit()


async def rehearse(scene: Scene, record: DumpRecord, clients: Clients) -> None:
    """Restore the dump's schema without its rows, and roll that back: what it needs is there."""
    async with _emptied(scene, record, clients) as (psql, chosen):
        async with chosen as archive:
            await psql.restore("--section=pre-data", "--section=post-data", *archive)
        await _compare(psql, record, data=False)


@asynccontextmanager
async def _emptied(
    scene: Scene,
    record: DumpRecord,
    clients: Clients,
    keep: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[tuple[Psql, Choice]]:
    """A transaction in which the target is locked and empty, and what pg_restore is told of it.

    What it held is given to `keep` when nobody else can write any more.
    """
    env = await scene.environment()
    async with transaction(clients, env) as psql:
        await _same_database(scene, psql)
        await psql.ask(f"SET LOCAL lock_timeout = '{LOCK_S}s'; SET LOCAL search_path = '';")
        if keep is not None:
            await _locked(scene, psql, record, "EXCLUSIVE")  # which lets pg_dump read
            shape = await psql.ask(digests.SHAPE + ";")
            await keep()
        await _locked(scene, psql, record, "ACCESS EXCLUSIVE")
        if keep is not None and await psql.ask(digests.SHAPE + ";") != shape:
            raise RefusedError(
                f"somebody has changed the schema of database {scene.live!r} while what the "
                "restore would replace was being dumped; that was rolled back"
            )
        await psql.ask("SET LOCAL client_min_messages = error;")
        if keep is not None:
            await psql.ask(_BESIDE_SCHEMAS)
        await psql.ask(_CONFIGURATION)
        await psql.ask(_DROP)
        await psql.ask(_DEFAULT_GRANTS)
        missing = await _missing_extensions(psql, record)
        needed = ", ".join(literal(schema) for _, schema, _ in missing) or "''"
        staying = await psql.ask(_STAYING.format(needed=needed))
        kept = ", ".join(literal(name) for name in staying)
        await psql.ask(
            f"""
            select format('DROP SCHEMA %I', n.nspname) from pg_namespace n
            where {USERS} and n.nspname not in ({kept or "''"}) order by 1 \\gexec
            """
        )
        archive = Archive(record.path, clients, env)
        first = {schema for _, schema, _ in missing} - {*staying}
        if first:
            async with archive.schemas(first) as schemas:
                await psql.restore(*schemas)
        for name, schema, version in missing:
            await psql.ask(
                f"CREATE EXTENSION {quoted_name(name)} SCHEMA {quoted_name(schema)} "
                f"VERSION {literal(version)};"
            )
        yield psql, archive.all_but(staying, first)


async def _locked(scene: Scene, psql: Psql, record: DumpRecord, mode: str) -> None:
    act = f"restore database {scene.live!r}"
    async with kept_alone(scene, act, record.disconnect_others):
        await psql.ask(_LOCK.format(mode=mode))


async def _missing_extensions(psql: Psql, record: DumpRecord) -> list[tuple[str, str, str]]:
    """Drop the extensions that are not as they were; returns those that are missing then."""
    found = ", ".join(f"({', '.join(map(literal, each))})" for each in record.extensions)
    await psql.ask(
        f"""
        select format('DROP EXTENSION IF EXISTS %I CASCADE', e.extname)
        from pg_extension e join pg_namespace n on n.oid = e.extnamespace
        where (e.extname, n.nspname, e.extversion) not in ({found or "('', '', '')"})
        order by e.oid desc \\gexec
        """
    )
    there = await psql.ask("select extname from pg_extension;")
    return [each for each in record.extensions if each[0] not in there]


async def _same_database(scene: Scene, psql: Psql) -> None:
    async with scene.access.connection(autocommit=True) as connection:
        expected = (await rows_of(connection, digests.IDENTITY))[0][0]
        scene.hold.rule((await rows_of(connection, f"select {SERVER}"))[0][0])
    if await psql.ask(digests.IDENTITY + ";") != [expected]:
        raise RefusedError(
            "psql was led to another database than the application is; nothing was changed. "
            "Look at what PGHOST and the other PG* variables say"
        )


async def _compare(psql: Psql, record: DumpRecord, *, data: bool) -> None:
    await psql.ask("SET LOCAL search_path = '';")
    same = await psql.ask(digests.SHAPE + ";") == [record.shape]
    if same and data:
        await psql.ask("SET LOCAL row_security = off;")
        tables = await psql.ask(digests.TABLES + ";")
        same = await psql.ask(digests.rows(tables) + ";") == [record.rows]
    if not same:
        what = "rows" if data else "schema"
        raise RefusedError(
            f"the {what} put back from {record.path} would not be those that were copied; "
            "that was rolled back"
        )


Choice = AbstractAsyncContextManager[Sequence[str]]

"""Within, pg_restore's arguments for a part of a dump, which end with the dump itself."""

_ENTRY = r"\d+; \d+ \d+ "


@dataclass(frozen=True, slots=True)
class Archive:
    """The dump at `path`; `env` is what pg_restore is run with."""

    path: str
    clients: Clients
    env: dict[str, str]

    def schemas(self, names: Collection[str]) -> Choice:
        """These schemas alone, empty."""
        wanted = re.compile(rf"{_ENTRY}SCHEMA - {_one_of(names)} ")
        return self._chosen(lambda line: wanted.match(line) is not None)

    def all_but(self, staying: Collection[str], made: Collection[str]) -> Choice:
        """All but extensions, schemas that were not dropped, and those that were made before."""
        left_out = re.compile(
            rf"{_ENTRY}(?:(?:ACL|COMMENT|SECURITY LABEL) - SCHEMA {_one_of(staying)} "
            rf"|SCHEMA - {_one_of([*staying, *made])} |EXTENSION - |COMMENT - EXTENSION )"
        )
        return self._chosen(lambda line: left_out.match(line) is None)

    @asynccontextmanager
    async def _chosen(self, wanted: Callable[[str], bool]) -> AsyncIterator[Sequence[str]]:
        # of a name that is cleared away after a kill
        listing = files.partial(Path(f"{self.path}.list"))

        def cut() -> None:
            lines = listing.read_bytes().decode(errors="surrogateescape").splitlines(keepends=True)
            kept = "".join(line for line in lines if wanted(line))
            listing.write_bytes(kept.encode(errors="surrogateescape"))

        try:
            await in_thread(lambda: files.create_private(listing))
            program = self.clients.program("pg_restore")
            await run(program, "-l", "-f", str(listing), self.path, env=self.env)
            await in_thread(cut)
            yield ("-L", str(listing), self.path)
        finally:
            await to_the_end(in_thread(lambda: listing.unlink(missing_ok=True)))


def _one_of(names: Collection[str]) -> str:
    return f"(?:{'|'.join(re.escape(name) for name in names) or '(?!)'})"  # or nothing
