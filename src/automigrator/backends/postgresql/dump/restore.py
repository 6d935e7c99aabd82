"""Puts a dump back into the database it was made of, in one transaction of the server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from automigrator.backends.postgresql import digests
from automigrator.backends.postgresql.digests import USERS, not_of_an_extension
from automigrator.backends.postgresql.dump import files
from automigrator.backends.postgresql.dump.files import Archive
from automigrator.backends.postgresql.dump.psql import Choice, Psql, transaction
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.journal import DumpEntry
from automigrator.backends.postgresql.notes import note_statement
from automigrator.backends.postgresql.sql import SERVER, literal, quoted_name, rows_of
from automigrator.backends.postgresql.verdict import heads_of
from automigrator.errors import RefusedError
from automigrator.support.concurrency import in_thread

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
_BESIDE_SCHEMAS = """
    select format('DROP %s IF EXISTS %I CASCADE', o.kind, o.name)
    from (select 'PUBLICATION', tableoid, oid, pubname, pubowner from pg_publication
          union all
          select 'EVENT TRIGGER', tableoid, oid, evtname, evtowner from pg_event_trigger
          union all
          select 'SERVER', tableoid, oid, srvname, srvowner from pg_foreign_server
          union all
          select 'FOREIGN DATA WRAPPER', tableoid, oid, fdwname, fdwowner
          from pg_foreign_data_wrapper) as o (kind, catalog, oid, name, owner)
    where pg_has_role(o.owner, 'USAGE') and not exists (
        select from pg_depend e where e.classid = o.catalog and e.objid = o.oid and e.deptype = 'e')
    union all
    select format('select lo_unlink(%s)', o.oid) from pg_largeobject_metadata o
    where pg_has_role(o.lomowner, 'USAGE') \\gexec
"""


async def restore(
    access: ExclusiveAccess, entry: DumpEntry, archive: Archive, clients: Path, kept: Archive
) -> DumpEntry | None:
    """Replace all that the database holds by the dump, and close its journal, or do nothing.

    A dump of what is replaced is written to `kept`, while nobody else can write. Returns what that
    holds, None where it could not be put back by hand. Raises RefusedError; then the transaction
    was rolled back, or never begun.
    """
    async with _emptied(access, entry, archive, clients, kept) as (psql, chosen, replaced):
        await psql.restore(archive, chosen)
        await _compare(psql, entry, data=True)
        closed = entry._replace(state="kept")
        await psql.ask(note_statement("dump", access.hold.dump_key, closed.dumped()) + ";")
        # a COMMIT whose answer is lost may have succeeded
        await in_thread(lambda: files.publish(kept))
        await access.hold.confirm()  # or another process may be at the database by now
        await psql.ask("COMMIT;")
    return replaced


async def rehearse(
    access: ExclusiveAccess, entry: DumpEntry, archive: Archive, clients: Path
) -> None:
    """Restore the dump's schema without its rows, and roll that back: it proves that it can be."""
    async with _emptied(access, entry, archive, clients) as (psql, chosen, _):
        await psql.restore(archive, chosen, "--section=pre-data", "--section=post-data")
        await _compare(psql, entry, data=False)


@asynccontextmanager
async def _emptied(
    access: ExclusiveAccess,
    entry: DumpEntry,
    archive: Archive,
    clients: Path,
    kept: Archive | None = None,
) -> AsyncIterator[tuple[Psql, Choice, DumpEntry | None]]:
    """Context manager: a transaction in which the target is locked and empty.

    Yields what pg_restore is to put back as well. With `kept`, what the target holds is dumped
    there first, when nobody else can write, and what that dump holds is yielded, too.
    """
    async with transaction(clients, await access.environment()) as psql:
        await _ensure_same_database(access, psql)
        await psql.ask(f"SET LOCAL lock_timeout = '{LOCK_S}s';")
        replaced: DumpEntry | None = None
        if kept is not None:
            await _lock(access, psql, entry, "EXCLUSIVE")  # which lets pg_dump read
            shape = await psql.ask(digests.SHAPE + ";")
            replaced = await _keep(access, entry._replace(shape="".join(shape)), kept, clients)
        await _lock(access, psql, entry, "ACCESS EXCLUSIVE")
        if kept is not None and await psql.ask(digests.SHAPE + ";") != shape:
            raise RefusedError(
                f"somebody has changed the schema of database {access.live!r} while what the "
                "restore would replace was being dumped; that was rolled back"
            )
        await psql.ask("SET LOCAL client_min_messages = error;")
        if kept is not None:
            await psql.ask(_BESIDE_SCHEMAS)
        await psql.ask(_CONFIGURATION + _DROP + _DEFAULT_GRANTS)
        missing = await _missing_extensions(psql, entry)
        homes = {schema for _, schema, _ in missing}
        staying = await psql.ask(_STAYING.format(needed=_literals(homes)))
        await psql.ask(
            f"""
            select format('DROP SCHEMA %I', n.nspname) from pg_namespace n
            where {USERS} and n.nspname not in ({_literals(staying)}) order by 1 \\gexec
            """
        )
        first = homes - {*staying}
        if first:  # these schemas alone, empty
            wanted = re.compile(rf"{_ENTRY}SCHEMA - {_one_of(first)} ")
            await psql.restore(archive, lambda line: wanted.match(line) is not None)
        for name, schema, version in missing:
            await psql.ask(
                f"CREATE EXTENSION {quoted_name(name)} SCHEMA {quoted_name(schema)} "
                f"VERSION {literal(version)};"
            )
        # all but extensions, schemas that were not dropped, and those that were made before
        left_out = re.compile(
            rf"{_ENTRY}(?:(?:ACL|COMMENT|SECURITY LABEL) - SCHEMA {_one_of(staying)} "
            rf"|SCHEMA - {_one_of([*staying, *first])} |EXTENSION - |COMMENT - EXTENSION )"
        )
        yield psql, lambda line: left_out.match(line) is None, replaced


async def _keep(
    access: ExclusiveAccess, entry: DumpEntry, kept: Archive, clients: Path
) -> DumpEntry | None:
    """Dump what is to be replaced, while writers are kept out; returns what the dump holds.

    `entry` is that of the dump which is put back, with the shape that the database has now.
    """
    async with access.connection() as connection:
        ((size,),) = await rows_of(connection, digests.SIZE)
        heads = await heads_of(connection, entry.tables)
        extensions = await rows_of(connection, digests.EXTENSIONS)
        large = await rows_of(connection, digests.LARGE_OBJECTS)
    # it could queue behind a session that waits for the restore's locks, for ever
    await files.write(access, kept, size, clients, f"--lock-wait-timeout={LOCK_S}s")
    if large:
        return None
    size, digest = await in_thread(kept.measured)
    return DumpEntry(
        *("migrating", heads, heads),
        tables=entry.tables,
        path=str(kept.path),
        host=entry.host,
        server=entry.server,
        size=size,
        digest=digest,
        shape=entry.shape,
        extensions=tuple(tuple(each) for each in extensions),
    )


async def _lock(access: ExclusiveAccess, psql: Psql, entry: DumpEntry, mode: str) -> None:
    act = f"restore database {access.live!r}"
    async with access.kept_alone(act, entry.disconnect_others):
        await psql.ask(_LOCK.format(mode=mode))


async def _missing_extensions(psql: Psql, entry: DumpEntry) -> list[tuple[str, str, str]]:
    """Drop the extensions that are not as they were; returns those that are missing then."""
    found = ", ".join(f"({', '.join(map(literal, each))})" for each in entry.extensions)
    there = await psql.ask(
        f"""
        select format('DROP EXTENSION IF EXISTS %I CASCADE', e.extname)
        from pg_extension e join pg_namespace n on n.oid = e.extnamespace
        where (e.extname, n.nspname, e.extversion) not in ({found or "('', '', '')"})
        order by e.oid desc \\gexec
        select extname from pg_extension;
        """
    )
    return [each for each in entry.extensions if each[0] not in there]


async def _ensure_same_database(access: ExclusiveAccess, psql: Psql) -> None:
    async with access.connection() as connection:
        ((expected, server),) = await rows_of(connection, f"select ({digests.IDENTITY}), {SERVER}")
    access.hold.rule(server)
    if await psql.ask(digests.IDENTITY + ";") != [expected]:
        raise RefusedError(
            "psql was led to another database than the application is; nothing was changed. "
            "Look at what PGHOST and the other PG* variables say"
        )


async def _compare(psql: Psql, entry: DumpEntry, *, data: bool) -> None:
    await psql.ask("SET LOCAL search_path = pg_catalog;")
    same = await psql.ask(digests.SHAPE + ";") == [entry.shape]
    if same and data and entry.rows:  # nobody reads all rows of what is replaced
        await psql.ask("SET LOCAL row_security = off;")
        tables = await psql.ask(digests.TABLES + ";")
        same = await psql.ask(digests.rows_query(tables) + ";") == [entry.rows]
    if not same:
        raise RefusedError(
            f"the {'rows' if data else 'schema'} put back from {entry.path} would not be those "
            "that were copied; that was rolled back"
        )


_ENTRY = r"\d+; \d+ \d+ "


def _one_of(names: Collection[str]) -> str:
    return f"(?:{'|'.join(re.escape(name) for name in names) or '(?!)'})"  # or nothing


def _literals(names: Collection[str]) -> str:
    return ", ".join(literal(name) for name in names) or "''"
