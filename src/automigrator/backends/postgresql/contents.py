"""All that a database holds, so that two can be compared: definitions, settings, every row."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.sides import Contents, digest_of
from automigrator.backends.postgresql.digests import LINES, READS_ALL, TABLES, USERS
from automigrator.backends.postgresql.names import SCHEMA_OF_OURS
from automigrator.backends.postgresql.sql import begin_reading, end_reading, literal, rows_of, run


def _in_users(catalog: str, oid: str, schema: str) -> str:
    return (
        f"from {catalog} join pg_namespace n on n.oid = {schema} where {USERS} and {oid} >= 16384"
    )


_CLASS = "join pg_class c on c.oid = {0} join pg_namespace n on n.oid = c.relnamespace"

_DEFINITIONS = f"""
    select concat_ws('|', 'default', d.adrelid::regclass, a.attname,
        pg_get_expr(d.adbin, d.adrelid))
    from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
    {_CLASS.format("d.adrelid")} where {USERS}
    union all
    select concat_ws('|', 'collation', c.oid::regclass, a.attname, a.attcollation::regcollation,
        a.attstorage, a.attoptions::text, a.attstattarget, a.attacl::text)
    from pg_attribute a {_CLASS.format("a.attrelid")}
    where {USERS} and a.attnum > 0 and not a.attisdropped
    union all
    select concat_ws('|', 'constraint is', k.conrelid::regclass, k.contypid::regtype, k.conname,
        pg_get_constraintdef(k.oid), k.condeferrable, k.condeferred)
    from pg_constraint k join pg_namespace n on n.oid = k.connamespace where {USERS}
    union all
    select concat_ws('|', 'index is', pg_get_indexdef(i.indexrelid), i.indisvalid,
        i.indisclustered, i.indisreplident)
    from pg_index i {_CLASS.format("i.indexrelid")} where {USERS}
    union all
    select concat_ws('|', 'view is', c.oid::regclass, pg_get_viewdef(c.oid))
    {_in_users("pg_class c", "c.oid", "c.relnamespace")} and c.relkind in ('v', 'm')
    union all
    select concat_ws('|', 'table is', c.oid::regclass, c.reloptions::text, c.relreplident,
        c.relpersistence, pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid),
        (select string_agg(i.inhparent::regclass::text, ',' order by i.inhseqno)
         from pg_inherits i where i.inhrelid = c.oid),
        (select spcname from pg_tablespace where oid = c.reltablespace))
    {_in_users("pg_class c", "c.oid", "c.relnamespace")}
    union all
    select concat_ws('|', 'sequence is', s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart,
        s.seqincrement, s.seqmax, s.seqmin, s.seqcache, s.seqcycle,
        (select concat_ws('.', d.refobjid::regclass, d.refobjsubid, d.deptype) from pg_depend d
         where d.classid = 'pg_class'::regclass and d.objid = s.seqrelid
           and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')))
    from pg_sequence s {_CLASS.format("s.seqrelid")} where {USERS}
    union all
    select concat_ws('|', 'function is', pg_get_functiondef(p.oid))
    {_in_users("pg_proc p", "p.oid", "p.pronamespace")} and p.prokind in ('f', 'p')
      and not exists (select from pg_depend e where e.objid = p.oid and e.deptype = 'e')
    union all
    select concat_ws('|', 'trigger is', pg_get_triggerdef(t.oid))
    from pg_trigger t {_CLASS.format("t.tgrelid")} where {USERS} and not t.tgisinternal
    union all
    select concat_ws('|', 'rule is', pg_get_ruledef(r.oid))
    from pg_rewrite r {_CLASS.format("r.ev_class")} where {USERS} and r.rulename <> '_RETURN'
    union all
    select concat_ws('|', 'policy is', p.polrelid::regclass, p.polname, p.polroles::regrole[]::text,
        pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    from pg_policy p {_CLASS.format("p.polrelid")} where {USERS}
    union all
    select concat_ws('|', 'type is', t.oid::regtype, t.typtype, t.typdefault,
        t.typbasetype::regtype, t.typtypmod, t.typcollation::regcollation, t.typacl::text)
    {_in_users("pg_type t", "t.oid", "t.typnamespace")}
    union all
    select concat_ws('|', 'statistics are', pg_get_statisticsobjdef(s.oid))
    {_in_users("pg_statistic_ext s", "s.oid", "s.stxnamespace")}
    union all
    select concat_ws('|', 'comment', pg_describe_object(d.classoid, d.objoid, d.objsubid),
        d.description)
    from pg_description d
    where d.objoid >= 16384 and d.objoid <> (select coalesce(
        (select oid from pg_namespace where nspname = '{SCHEMA_OF_OURS}'), 0))
    union all
    select concat_ws('|', 'grants by default', d.defaclrole::regrole, d.defaclobjtype,
        d.defaclacl::text) from pg_default_acl d
    union all
    select concat_ws('|', 'publication', p.pubname, p.puballtables,
        (select string_agg(r.prrelid::regclass::text, ',' order by r.prrelid::regclass::text)
         from pg_publication_rel r where r.prpubid = p.oid)) from pg_publication p
"""


async def contents(connection: AsyncConnection) -> Contents:
    """Read a database of the side; the connection is in AUTOCOMMIT.

    Raises a DBAPIError where this role may not read all of it.
    """
    await begin_reading(connection)
    try:
        await run(connection, READS_ALL)
        lines = await rows_of(connection, _asked(f"{LINES} union all {_DEFINITIONS}"))
        structure = {str(row[0]) for row in lines}
        rows = {}
        for (found,) in await rows_of(connection, TABLES):
            kind, name = found[0], found[1:]
            if kind == "S":
                asked = f"select concat_ws(' ', last_value, is_called) from {name}"
                ((at,),) = await rows_of(connection, _asked(asked))
                structure.add(f"sequence at|{name}|{at}")
            else:
                rows[name] = await _rows(connection, name)
    finally:
        await end_reading(connection)
    return Contents(frozenset(structure), rows)


async def _rows(
    connection: AsyncConnection, name: str
) -> tuple[tuple[str, ...], tuple[tuple[bytes, ...], ...]]:
    columns = f"""
        select quote_ident(attname)::text from pg_attribute
        where attrelid = {literal(name)}::regclass and attnum > 0 and not attisdropped
        order by attnum
    """
    names = tuple(str(row[0]) for row in await rows_of(connection, _asked(columns)))
    if not names:
        return (), ()
    # not a cast: the owner of a table may have made one for its rows
    values = ", ".join(f"textin(record_out(row(one.{each})))" for each in names)
    found = await rows_of(connection, _asked(f"select {values} from only {name} as one"))
    return names, tuple(tuple(map(digest_of, row)) for row in found)


def _asked(sql: str) -> str:
    return sql.replace(":", "\\:")
