"""Whether a target has its PostgreSQL database to itself."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.databases.backend import VersionTable
from automigrator.databases.postgresql.refusals import listed
from automigrator.databases.postgresql.sql import rows_of


async def exclusive_to_target(
    connection: AsyncConnection,
    schemas: Sequence[str],
    version_tables: Sequence[VersionTable],
    *,
    but_own: bool = False,
) -> str | None:
    """Why a whole-database act on this connection's database would touch neighbours; None: no.

    `schemas` and `version_tables` are all the target's own. What extensions own is nobody's.
    With `but_own` tables of this role, or of the database's owner, are the target's anywhere.
    """
    owner, owns, name = (
        await rows_of(
            connection,
            """
            select pg_get_userbyid(datdba), pg_has_role(datdba, 'USAGE'), datname::text
            from pg_database where datname = current_database()
            """,
        )
    )[0]
    if not owns:
        return f"database {name!r} belongs to role {owner!r}, which this role is not a member of"
    tables = await rows_of(
        connection,
        """
        select n.nspname::text, c.relname::text, pg_table_is_visible(c.oid),
               (select array_agg(a.attname::text) = array['version_num'] from pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
               pg_get_userbyid(c.relowner) in (current_user, :owner)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'f', 'm')
          and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
          and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass
                          and d.objid = c.oid and d.deptype = 'e')
        order by 1, 2
        """,
        owner=owner,
    )
    strangers, histories = [], []
    for schema, table, visible, looks_like_version_table, own_role in tables:
        is_own = any(
            own.name == table and (own.schema == schema or (own.schema is None and visible))
            for own in version_tables
        )
        if is_own or (but_own and own_role):
            continue
        if looks_like_version_table:
            histories.append(f"{schema}.{table}")
        elif schema not in schemas:
            strangers.append(f"{schema}.{table}")
    if histories:
        return f"database {name!r} has another history's version table: {listed(histories)}"
    if strangers:
        return f"database {name!r} has tables outside the target's schemas: {listed(strangers)}"
    return None
