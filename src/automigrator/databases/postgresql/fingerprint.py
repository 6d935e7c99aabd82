"""The whole schema of a PostgreSQL database, comparable with that of a copy of it."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.databases.postgresql import contents
from automigrator.databases.postgresql.codes import NO_PRIVILEGE, code_of
from automigrator.databases.postgresql.contents import SCHEMA_OF_OURS
from automigrator.databases.postgresql.sql import begin_reading, rows_of, run

# a template copy keeps every oid; what VACUUM, ANALYZE and a lazy server write is left out
_CATALOGS = {
    "pg_aggregate": "*",
    "pg_amop": "*",
    "pg_amproc": "*",
    "pg_attrdef": "*",
    "pg_attribute": """attrelid, attnum, attname, atttypid, atttypmod, attnotnull, atthasdef,
        attisdropped, attidentity, attgenerated, attcollation, attacl, attoptions""",
    "pg_cast": "*",
    "pg_class": """oid, relname, relnamespace, reltype, relowner, relam, reltablespace, relkind,
        relpersistence, relnatts, relrowsecurity, relforcerowsecurity, relispartition, relacl,
        reloptions, relpartbound""",
    "pg_collation": "*",
    "pg_constraint": "*",
    "pg_conversion": "*",
    "pg_default_acl": "*",
    "pg_description": "*",
    "pg_enum": "*",
    "pg_event_trigger": "*",
    "pg_extension": "oid, extname, extnamespace, extversion",
    "pg_foreign_data_wrapper": "*",
    "pg_foreign_server": "*",
    "pg_foreign_table": "*",
    "pg_index": "indexrelid, indrelid, indisunique, indisprimary, indisvalid, indkey, indpred",
    "pg_inherits": "inhrelid, inhparent",
    "pg_language": "*",
    "pg_largeobject_metadata": "*",
    "pg_namespace": "*",
    "pg_opclass": "*",
    "pg_operator": "*",
    "pg_opfamily": "*",
    "pg_partitioned_table": "*",
    "pg_policy": "*",
    "pg_proc": "*",
    "pg_publication": "*",
    "pg_publication_rel": "*",
    "pg_range": "*",
    "pg_rewrite": "*",
    "pg_seclabel": "*",
    "pg_sequence": "*",
    "pg_statistic_ext": "oid, stxrelid, stxname, stxkind",
    "pg_transform": "*",
    "pg_trigger": "*",
    "pg_ts_config": "*",
    "pg_ts_config_map": "*",
    "pg_ts_dict": "*",
    "pg_type": "*",
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

_NOT_TO_BE_TOLD = (NO_PRIVILEGE, "53200", "54")  # no room for as many locks, or too complex


async def values(connection: AsyncConnection) -> str | None:
    """A digest of every row of every table that a dump holds, on an AUTOCOMMIT connection.

    None where this role may not read them all, or the server not read so many at once.
    """
    await begin_reading(connection)
    try:
        await run(connection, "SET LOCAL search_path = ''")
        await run(connection, "SET LOCAL row_security = off")  # an error rather than fewer rows
        return await values_here(connection)
    except DBAPIError as error:
        if (code_of(error) or "").startswith(_NOT_TO_BE_TOLD):
            return None
        raise
    finally:
        await run(connection, "ROLLBACK")


async def values_here(connection: AsyncConnection) -> str:
    """The same within a transaction whose search_path is empty."""
    tables = [row[0] for row in await rows_of(connection, contents.TABLES)]
    query = contents.rows(tables, values=True).replace(":", "\\:")
    found = str((await rows_of(connection, query))[0][0])
    large = (await rows_of(connection, contents.LARGE_VALUES))[0][0]
    return found if large is None else f"{found} {large}"


async def fingerprint(connection: AsyncConnection) -> tuple[tuple[str, int, str | None], ...]:
    """Catalog, rows, hash; equal when no DDL has been committed to either of two copies."""
    parts = [
        f"""
        select '{catalog}', count(*), md5(string_agg(hash, '' order by hash))
        from (select md5(row::text) as hash from (select {columns} from {catalog}
              where not ({_EXCEPT.get(catalog, "false")})) as row) as rows
        """
        for catalog, columns in _CATALOGS.items()
    ]
    rows = await rows_of(connection, " union all ".join(parts) + " order by 1")
    return tuple((str(name), int(count), digest) for name, count, digest in rows)
