"""What belongs to a PostgreSQL database and a template copy of it loses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.postgresql.refusals import missing
from automigrator.backends.postgresql.sql import literal, quoted_name, rows_of, run, sqlstate

# their stored value is a quoted list; any other setting's is one string (as pg_dump has it)
_LISTS = frozenset(
    {
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)


@dataclass(frozen=True, slots=True)
class Grant:
    """A privilege on the database; `role` None is PUBLIC."""

    role: str | None
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """One `ALTER DATABASE/ROLE … SET`; applications keep secrets in them."""

    role: str | None
    name: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """What belongs to a database and a template copy loses; `grants` None is the default."""

    owner: str
    grants: tuple[Grant, ...] | None = None
    variables: tuple[Setting, ...] = ()
    comment: str | None = None
    connection_limit: int = -1


async def settings(admin: AsyncConnection, name: str) -> Settings:
    """What a template copy of `name` would lose. Raises RefusedError when there is no `name`."""
    rows = await rows_of(
        admin,
        """
        select pg_get_userbyid(datdba), shobj_description(oid, 'pg_database'),
               datconnlimit, datacl is not null
        from pg_database where datname = :name
        """,
        name=name,
    )
    if not rows:
        raise missing(name)
    owner, comment, limit, has_grants = rows[0]
    grants = await rows_of(
        admin,
        """
        select r.rolname, a.privilege_type, bool_or(a.is_grantable)
        from pg_database d cross join aclexplode(d.datacl) a
        left join pg_roles r on r.oid = a.grantee
        where d.datname = :name and (a.grantee = 0 or r.oid is not null)
        group by 1, 2 order by 1 nulls first, 2
        """,
        name=name,
    )
    variables = await rows_of(
        admin,
        """
        select r.rolname, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
        from pg_db_role_setting s
        join pg_database d on d.oid = s.setdatabase
        cross join unnest(s.setconfig) c
        left join pg_roles r on r.oid = s.setrole
        where d.datname = :name
        order by 1 nulls first, 2
        """,
        name=name,
    )
    return Settings(
        owner=owner,
        grants=tuple(Grant(*row) for row in grants) if has_grants else None,
        variables=tuple(Setting(*row) for row in variables),
        comment=comment,
        connection_limit=limit,
    )


async def apply_settings(admin: AsyncConnection, name: str, settings: Settings) -> tuple[str, ...]:
    """Give a database fresh from `create` another's settings.

    Returns what the server did not let this role apply, without values: refuse to swap in a
    database that lacks a revoke, say.
    """
    database = quoted_name(name)
    owner = quoted_name(settings.owner)
    acts = [("the owner", f"ALTER DATABASE {database} OWNER TO {owner}")]
    if settings.grants is not None:
        acts.append(("revokes", f"REVOKE ALL ON DATABASE {database} FROM PUBLIC, {owner}"))
    for grant in settings.grants or ():
        role = "PUBLIC" if grant.role is None else quoted_name(grant.role)
        option = " WITH GRANT OPTION" if grant.grantable else ""
        sql = f"GRANT {grant.privilege} ON DATABASE {database} TO {role}{option}"
        acts.append((f"{grant.privilege} for {role}", sql))
    for variable in settings.variables:
        whose = f"ALTER DATABASE {database}"
        if variable.role is not None:
            whose = f"ALTER ROLE {quoted_name(variable.role)} IN DATABASE {database}"
        sql = f"{whose} SET {quoted_name(variable.name)} TO {_value(variable)}"
        acts.append((f"{variable.name} for {variable.role or 'everyone'}", sql))
    if settings.comment is not None:
        acts.append(("the comment", _comment(name, settings.comment)))
    limit = f"ALTER DATABASE {database} CONNECTION LIMIT {settings.connection_limit}"
    acts.append(("the connection limit", limit))
    refused = []
    for what, sql in acts:
        try:
            await run(admin, sql)
        except DBAPIError as error:
            if error.connection_invalidated:
                error.statement = f"({what} of database {database})"  # the SQL holds the value
                raise
            refused.append(f"{what} (SQLSTATE {sqlstate(error)})")
    return tuple(refused)


async def set_comment(admin: AsyncConnection, name: str, comment: str | None) -> None:
    await run(admin, _comment(name, comment))


def _comment(name: str, comment: str | None) -> str:
    value = "NULL" if comment is None else literal(comment)
    return f"COMMENT ON DATABASE {quoted_name(name)} IS {value}"


def _value(variable: Setting) -> str:
    if variable.name.lower() not in _LISTS:
        return literal(variable.value)
    parts = re.findall(r'"((?:[^"]|"")*)"|([^,\s"][^,"]*)', variable.value)
    items = [quoted.replace('""', '"') or bare.strip() for quoted, bare in parts]
    return ", ".join(literal(item) for item in items) or "''"
