"""Settings, grants and the owner of a database, which a template copy does not carry over."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.postgresql.errors import missing, own_code
from automigrator.backends.postgresql.sql import rows_of, run

# the stored value of these variables is a quoted list; any other's is one string, as for pg_dump
_LISTS = """
    'local_preload_libraries', 'search_path', 'session_preload_libraries',
    'shared_preload_libraries', 'temp_tablespaces', 'unix_socket_directories'
"""

_STATEMENTS = rf"""
    with d as (select *, format('DATABASE %I', cast(:name as text)) as copy,
                      pg_get_userbyid(datdba) as owner
               from pg_database where datname = :like)
    select 1, 'the owner', format('ALTER %s OWNER TO %I', copy, owner) from d
    union all
    select 2, 'revokes', format('REVOKE ALL ON %s FROM PUBLIC, %I', copy, owner) from d
    where datacl is not null
    union all
    select 3, format('%s for %s', a.privilege_type, coalesce(quote_ident(r.rolname), 'PUBLIC')),
        format('GRANT %s ON %s TO %s%s', a.privilege_type, copy, coalesce(quote_ident(r.rolname),
               'PUBLIC'), case when bool_or(a.is_grantable) then ' WITH GRANT OPTION' end)
    from d cross join aclexplode(d.datacl) a left join pg_roles r on r.oid = a.grantee
    where a.grantee = 0 or r.oid is not null group by copy, a.privilege_type, r.rolname
    union all
    select 4, format('%s for %s', v.name, coalesce(r.rolname, 'everyone')),
        format('ALTER %s%s SET %I TO %s', 'ROLE ' || quote_ident(r.rolname) || ' IN ', copy,
               v.name, case when lower(v.name) in ({_LISTS}) then coalesce((
                   select string_agg(quote_literal(coalesce(replace(m[1], '""', '"'),
                                                            btrim(m[2]))), ', ')
                   from regexp_matches(v.value, '"((?:[^"]|"")*)"|([^,\s"][^,"]*)', 'g') m), '''''')
               else quote_literal(v.value) end)
    from d join pg_db_role_setting s on s.setdatabase = d.oid
    left join pg_roles r on r.oid = s.setrole cross join unnest(s.setconfig) c
    cross join lateral (select split_part(c, '=', 1), substr(c, strpos(c, '=') + 1))
                       as v (name, value)
    union all
    select 5, 'the comment',
        format('COMMENT ON %s IS %L', copy, shobj_description(l.oid, 'pg_database'))
    from d join pg_database l on l.datname = :comment_of
    union all
    select 6, 'the connection limit',
        format('ALTER %s CONNECTION LIMIT %s', copy, datconnlimit) from d
    order by 1, 2
"""


async def statements(
    admin: AsyncConnection, like: str, name: str, *, comment_of: str | None = None
) -> list[tuple[str, str]]:
    """Return what gives a new database `name` the settings of `like`: a few words, and the SQL.

    The comment is that of the database `comment_of`; by default there is none. Applications keep
    secrets in settings: log the words alone. Raises RefusedError when there is no `like`.
    """
    rows = await rows_of(admin, _STATEMENTS, like=like, name=name, comment_of=comment_of)
    if not rows:
        raise missing(like)
    return [(words, sql) for _, words, sql in rows]


async def apply(admin: AsyncConnection, statements: list[tuple[str, str]]) -> tuple[str, ...]:
    """Run `statements`; returns the words of those that the server refused to this role.

    Refuse to swap in a database then: it may lack a revoke.
    """
    refused = []
    for words, sql in statements:
        try:
            await run(admin, sql)
        except DBAPIError as error:
            if error.connection_invalidated:
                error.statement = f"({words} of a database)"  # the SQL holds the value
                raise
            refused.append(f"{words} (SQLSTATE {own_code(error.orig)})")
    return tuple(refused)
