"""Digests of a database's schema and rows, which say whether two copies hold the same.

Those for a dump leave out oids and expressions, which a restore changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.postgresql.errors import NO_PRIVILEGE, code_of
from automigrator.backends.postgresql.names import SCHEMA_OF_OURS
from automigrator.backends.postgresql.sql import (
    SERVER,
    begin_reading,
    end_reading,
    literal,
    rows_of,
    run,
)

USERS = f"n.nspname !~ '^pg_' and n.nspname not in ('information_schema', '{SCHEMA_OF_OURS}')"

"""Which schemas `n` hold what a dump holds."""


def not_of_an_extension(catalog: str, oid: str) -> str:
    return f"""not exists (select from pg_depend e where e.classid = '{catalog}'::regclass
        and e.objid = {oid} and e.deptype = 'e')"""


def _grants(acl: str, default: str, owner: str) -> str:
    # an expression is worded anew by every dump, and so is who granted
    return f"""(select string_agg(concat_ws(' ', case g.grantee when 0 then 'public'
        else pg_get_userbyid(g.grantee) end, g.privilege_type, g.is_grantable), ','
        order by g.grantee, g.privilege_type)
        from aclexplode(coalesce({acl}, acldefault('{default}', {owner}))) g)"""


_OWN = not_of_an_extension("pg_class", "c.oid")

_RELATION = f"""from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where {USERS} and {_OWN}"""


def _of_class(oid: str) -> str:
    return f"""join pg_class c on c.oid = {oid} join pg_namespace n on n.oid = c.relnamespace
        where {USERS}"""


LINES = f"""
    select concat_ws('|', 'schema', n.nspname, pg_get_userbyid(n.nspowner),
        case n.nspname when 'public' then '' else {_grants("n.nspacl", "n", "n.nspowner")} end)
    from pg_namespace n where {USERS}
    union all
    select concat_ws('|', 'extension', e.extname, n.nspname, e.extversion)
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
    union all
    select concat_ws('|', 'relation', n.nspname, c.relname, c.relkind,
        pg_get_userbyid(c.relowner), c.relpersistence, c.relrowsecurity, c.relforcerowsecurity,
        case when c.relkind in ('r', 'p', 'v', 'm', 'f')
             then {_grants("c.relacl", "r", "c.relowner")}
             when c.relkind = 'S' then {_grants("c.relacl", "s", "c.relowner")} end)
    {_RELATION}
    union all
    select concat_ws('|', 'column', n.nspname, c.relname, row_number() over (
        partition by c.oid order by a.attnum), a.attname, format_type(a.atttypid, a.atttypmod),
        a.attnotnull, a.atthasdef, a.attidentity, a.attgenerated)
    from pg_attribute a {_of_class("a.attrelid")} and {_OWN}
      and a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
    union all
    select concat_ws('|', 'constraint', n.nspname, k.conrelid::regclass, k.conname, k.contype,
        k.convalidated, k.confdeltype, k.confupdtype)
    from pg_constraint k {_of_class("k.conrelid")} and {_OWN} and k.contype <> 'n'
    union all
    select concat_ws('|', 'index', n.nspname, c.relname, i.indrelid::regclass, i.indisunique,
        i.indisprimary, i.indnatts, i.indpred is not null)
    from pg_index i {_of_class("i.indexrelid")} and {not_of_an_extension("pg_class", "i.indrelid")}
    union all
    select concat_ws('|', 'trigger', n.nspname, c.relname, t.tgname, t.tgenabled,
        t.tgfoid::regproc)
    from pg_trigger t {_of_class("t.tgrelid")} and not t.tgisinternal
    union all
    select concat_ws('|', 'policy', n.nspname, c.relname, p.polname, p.polcmd, p.polpermissive)
    from pg_policy p {_of_class("p.polrelid")}
    union all
    select concat_ws('|', 'function', p.oid::regprocedure, pg_get_userbyid(p.proowner),
        md5(p.prosrc), p.provolatile, p.prosecdef, p.proconfig::text,
        {_grants("p.proacl", "f", "p.proowner")})
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where {USERS} and {not_of_an_extension("pg_proc", "p.oid")}
    union all
    select concat_ws('|', 'type', n.nspname, t.typname, t.typtype, pg_get_userbyid(t.typowner),
        t.typnotnull, (select string_agg(v.enumlabel, ',' order by v.enumsortorder)
                       from pg_enum v where v.enumtypid = t.oid))
    from pg_type t join pg_namespace n on n.oid = t.typnamespace
    where {USERS} and {not_of_an_extension("pg_type", "t.oid")}
      and t.typtype in ('e', 'd', 'r')
"""

"""A text for each object that a dump holds, expressions left out."""

SHAPE = f"""
    select md5(coalesce(string_agg(line, chr(10) order by line collate "C"), ''))
    from ({LINES}) as lines (line)
"""

"""One row, one text: a digest of the schema, its owners and its grants."""

TABLES = f"""
    select c.relkind::text || format('%I.%I', n.nspname, c.relname) {_RELATION}
      and c.relkind in ('r', 'S') order by 1
"""

"""One text for each table and sequence: its kind, r or S, and its quoted name."""

EXTENSIONS = """
    select e.extname::text, n.nspname::text, e.extversion
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace order by e.oid
"""

"""In the order in which they were made: one may need another."""

LARGE_OBJECTS = "select oid::bigint from pg_largeobject_metadata order by 1 limit 3"

LARGE_VALUES = """
    select sum(hashtextextended(oid || encode(sha256(lo_get(oid)), 'hex'), 0)::numeric)::text
    from pg_largeobject_metadata
"""

"""One text: a digest of what is in large objects, null where there are none."""

SIZE = f"""
    select coalesce(sum(pg_table_size(c.oid)), 0)::bigint {_RELATION}
      and c.relkind in ('r', 'm', 'S')
"""

"""Bytes of all tables, indexes left out: about what a dump holds that does not compress."""

IDENTITY = f"""
    select oid || ' ' || {SERVER} from pg_database where datname = current_database()
"""

"""One text that no other database, and no other run of the server, has."""


def rows_query(found: Sequence[str], *, values: bool = False) -> str:
    """Return a query of one text: a digest of the number of rows, and of where sequences are.

    With `values`, of what is in the rows as well. `found` is what `TABLES` has answered.
    """
    told = "count(*)::text"
    if values:
        # not a cast: the owner of a table may have made one for its rows
        row = "textin(record_out((one.*)))"
        told += f" || ' ' || coalesce(sum(hashtextextended({row}, 0)::numeric), 0)"
    counts = [
        f"select {literal(name)}, {told} from only {name} as one"
        if kind == "r"
        else f"select {literal(name)}, concat_ws(' ', last_value, is_called) from {name}"
        for kind, name in ((each[0], each[1:]) for each in found)
    ]
    if not counts:
        return "select md5('')"
    union = " union all ".join(counts)
    return f"""
        select md5(string_agg(name || ' ' || found, chr(10) order by name collate "C"))
        from ({union}) as counted (name, found)
    """


_WHOLE_CATALOGS = """
    pg_aggregate pg_amop pg_amproc pg_attrdef pg_cast pg_collation pg_constraint pg_conversion
    pg_default_acl pg_description pg_enum pg_event_trigger pg_foreign_data_wrapper
    pg_foreign_server pg_foreign_table pg_language pg_largeobject_metadata pg_namespace
    pg_opclass pg_operator pg_opfamily pg_partitioned_table pg_policy pg_proc pg_publication
    pg_publication_rel pg_range pg_rewrite pg_seclabel pg_sequence pg_transform pg_trigger
    pg_ts_config pg_ts_config_map pg_ts_dict pg_type
"""

# a template copy keeps every oid; what VACUUM, ANALYZE and a lazy server write is left out
_CATALOGS = dict.fromkeys(_WHOLE_CATALOGS.split(), "*") | {
    "pg_attribute": """attrelid, attnum, attname, atttypid, atttypmod, attnotnull, atthasdef,
        attisdropped, attidentity, attgenerated, attcollation, attacl, attoptions""",
    "pg_class": """oid, relname, relnamespace, reltype, relowner, relam, reltablespace, relkind,
        relpersistence, relnatts, relrowsecurity, relforcerowsecurity, relispartition, relacl,
        reloptions, relpartbound""",
    "pg_extension": "oid, extname, extnamespace, extversion",
    "pg_index": "indexrelid, indrelid, indisunique, indisprimary, indisvalid, indkey, indpred",
    "pg_inherits": "inhrelid, inhparent",
    "pg_statistic_ext": "oid, stxrelid, stxname, stxkind",
    "pg_user_mappings": "umid, srvid, umuser, umoptions",
}

_LEFT_OUT = f"""select oid from pg_namespace
    where nspname ~ '^pg_(toast_)?temp_' or nspname = '{SCHEMA_OF_OURS}'"""

_OF_LEFT_OUT = f"select oid from pg_class where relnamespace in ({_LEFT_OUT})"

# anybody's temporary tables and what we keep for ourselves are no part of the schema
_EXCEPT = {
    "pg_attribute": f"attrelid in ({_OF_LEFT_OUT})",
    "pg_attrdef": f"adrelid in ({_OF_LEFT_OUT})",
    "pg_class": f"relnamespace in ({_LEFT_OUT})",
    "pg_constraint": f"connamespace in ({_LEFT_OUT})",
    "pg_description": f"""
        objoid in ({_OF_LEFT_OUT} union all {_LEFT_OUT}
                   union all select oid from pg_type where typnamespace in ({_LEFT_OUT}))""",
    "pg_index": f"indrelid in ({_OF_LEFT_OUT})",
    "pg_inherits": f"inhrelid in ({_OF_LEFT_OUT})",
    "pg_namespace": f"oid in ({_LEFT_OUT})",
    "pg_rewrite": f"ev_class in ({_OF_LEFT_OUT})",
    "pg_sequence": f"seqrelid in ({_OF_LEFT_OUT})",
    "pg_trigger": f"tgrelid in ({_OF_LEFT_OUT})",
    "pg_type": f"typnamespace in ({_LEFT_OUT})",
}

_CANNOT_READ = (NO_PRIVILEGE, "53200", "54")  # no room for as many locks, or too complex


READS_ALL = """
    select set_config('search_path', '', true), set_config('row_security', 'off', true)
"""

"""For a transaction: what a policy would hide is an error, rather than fewer rows."""


async def values(connection: AsyncConnection) -> str | None:
    """Return a digest of every row of every table that a dump holds; the connection is AUTOCOMMIT.

    None where this role may not read them all, or the server not read so many at once.
    """
    await begin_reading(connection)
    try:
        await run(connection, READS_ALL)
        return await values_here(connection)
    except DBAPIError as error:
        if (code_of(error) or "").startswith(_CANNOT_READ):
            return None
        raise
    finally:
        await end_reading(connection)


async def values_here(connection: AsyncConnection) -> str:
    """Do as `values` in a transaction that has `READS_ALL`."""
    found = await rows_here(connection, values=True)
    large = (await rows_of(connection, LARGE_VALUES))[0][0]
    return found if large is None else f"{found} {large}"


async def rows_here(connection: AsyncConnection, *, values: bool = False) -> str:
    """Run `rows_query` in a transaction that has `READS_ALL`."""
    tables = [row[0] for row in await rows_of(connection, TABLES)]
    query = rows_query(tables, values=values).replace(":", "\\:")
    return str((await rows_of(connection, query))[0][0])


async def catalog(connection: AsyncConnection) -> str:
    """Return a digest that is equal for two copies when no DDL has been committed to either."""
    parts = [
        f"""
        select '{name}', count(*), md5(string_agg(hash, '' order by hash))
        from (select md5(row::text) as hash from (select {columns} from {name}
              where not ({_EXCEPT.get(name, "false")})) as row) as rows
        """
        for name, columns in _CATALOGS.items()
    ]
    found = await rows_of(connection, " union all ".join(parts) + " order by 1")
    text = repr(tuple((str(name), int(count), digest) for name, count, digest in found))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
