"""Tables of a database that are not the target's: another application's, another history's."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.examiner import TableName
from automigrator.backends.contract.sides import Known, unknown
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.errors import listed
from automigrator.backends.postgresql.sql import PATH, application_path, first_found, rows_of


async def tables_of(connection: AsyncConnection) -> frozenset[TableName]:
    """Return the tables of a database of ours; None is the connection's default schema."""
    rows = await rows_of(
        connection,
        f"""
        with {PATH}
        select nullif(n.nspname::text, ours.schemas[1]), c.relname::text
        from ours, pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'f', 'm')
        """,
    )
    return frozenset((schema, name) for schema, name in rows)


async def why_shared(
    connection: AsyncConnection,
    tables: Sequence[VersionTable],
    *,
    own_anywhere: bool = False,
    known: Known | None = None,
) -> str | None:
    """Say why an act on this connection's whole database would touch neighbours; None: it won't.

    `tables` are the target's version tables; their schemas and the connection's are its own.
    Objects of extensions are nobody's. With `own_anywhere`, tables of this role or of the
    database's owner are the target's. With `known`, the whole database is to be replaced: raises
    RefusedError for the tables that are somebody else's.
    """
    path = await application_path(connection)
    current = path.first
    ((owner, owns, name),) = await rows_of(
        connection,
        """
        select pg_get_userbyid(datdba), pg_has_role(datdba, 'USAGE'), datname::text
        from pg_database where datname = current_database()
        """,
    )
    if not owns:
        return f"database {name!r} belongs to role {owner!r}, which this role is not a member of"
    found = await rows_of(
        connection,
        f"""
        select n.nspname::text, c.relname::text,
               c.oid = {first_found("c.relname", "cast(:visible as text[])")},
               (select array_agg(a.attname::text) = array['version_num'] from pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
               c.relispartition or exists (
                   select from pg_depend d where d.classid = 'pg_namespace'::regclass
                   and d.objid = n.oid and d.deptype = 'e')
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'f', 'm')
          and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
          and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass
                          and d.objid = c.oid and d.deptype = 'e')
          and not (:own_anywhere and pg_get_userbyid(c.relowner) in (current_user, :owner))
        order by 1, 2
        """,
        visible=list(path.visible),
        owner=owner,
        own_anywhere=own_anywhere,
    )
    strangers, histories = [], []

    def own_schema(schema: str) -> str | None:
        return schema if schema != current else None

    own = {(table.schema, table.name) for table in tables}
    schemas = {table.schema or current for table in tables} | {current}
    for schema, table, visible, looks_like_version_table, part_of_another in found:
        if (schema, table) in own or (visible and (None, table) in own):
            continue
        if looks_like_version_table:
            histories.append(f"{schema}.{table}")
        elif known is not None and (
            part_of_another or known.has((own_schema(schema), table)) or known.has((schema, table))
        ):
            continue
        elif known is not None and known.tables is not None:
            strangers.append(table if schema == current else f"{schema}.{table}")
        elif schema not in schemas:
            strangers.append(f"{schema}.{table}")
    if histories:
        return f"database {name!r} has another history's version table: {listed(histories)}"
    if strangers and known is not None:
        how = "outside the target's schemas" if known.tables is None else "not the target's own"
        raise unknown(f"database {name!r}", strangers, how)
    if strangers:
        return f"database {name!r} has tables outside the target's schemas: {listed(strangers)}"
    return None
