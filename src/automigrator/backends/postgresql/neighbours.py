"""What is near a target and not its own: tables, and what merely has a name of ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.examiner import TableName
from automigrator.backends.contract.sides import Known, unknown
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.digests import USERS
from automigrator.backends.postgresql.errors import listed
from automigrator.backends.postgresql.names import OPEN, OURS_HERE, SCHEMA_OF_OURS, among
from automigrator.backends.postgresql.notes import Note
from automigrator.backends.postgresql.sql import (
    PATH,
    application_path,
    first_found,
    quoted_name,
    rows_of,
)
from automigrator.errors import RefusedError

_WRITES = """
    exists (select from pg_roles r where pg_has_role({role}, r.oid, 'MEMBER') and coalesce(
        (select bool_or(has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE'))
         from unnest(cast(:schemas as text[]), cast(:tables as text[])) as t (schema, name)
         join pg_namespace n on n.nspname = t.schema
         join pg_class c on c.relnamespace = n.oid and c.relname = t.name),
        has_database_privilege(r.oid, current_database(), 'CREATE')))
"""

"""Whether a role could have migrated the connection's database: it may write the version tables
`:tables` in `:schemas`, or, where none is there, create something.
"""


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


_STRANGE_CODE = f"""
    with found (what, owner) as (
        select format('table %I.%I', n.nspname, c.relname), c.relowner
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p') and {USERS} and (
            exists (select from pg_constraint o where o.conrelid = c.oid and o.contype = 'c')
            or exists (select from pg_attribute a where a.attrelid = c.oid and a.attgenerated <> '')
            or exists (select from pg_partitioned_table p
                       where p.partrelid = c.oid and p.partexprs is not null))
        union all
        select format('domain %I.%I', n.nspname, t.typname), t.typowner
        from pg_type t join pg_namespace n on n.oid = t.typnamespace
        where {USERS} and exists (
            select from pg_constraint o where o.contypid = t.oid and o.contype = 'c'))
    select what, pg_get_userbyid(owner)::text from found where owner not in {OURS_HERE} order by 1
"""


async def ensure_no_strange_code(connection: AsyncConnection, act: str) -> None:
    """Raise RefusedError where rows that are put back would run what a stranger has written.

    A check, a column that is generated and the key of a partition run as the role that restores.
    """
    if found := await rows_of(connection, _STRANGE_CODE):
        what = listed([f"{each} of role {owner!r}" for each, owner in found])
        raise RefusedError(
            f"cannot {act}: {what} may run code as this role when rows are put back, and no such "
            "role is trusted with this database; nothing was changed. Drop what is named, or give "
            "it to the database's owner once you have read it; or use copy='template'"
        )


class Claim(NamedTuple):
    """Something on the server that has a name of ours; `owner` is the role that says whose it is.

    `opened`: it has the text of an open journal. `migrates`: its owner could have migrated the
    database, as a login does that is not used any more.
    """

    kind: Literal["database", "domain", "schema"]
    name: str
    owner: str
    ours: bool
    opened: bool
    migrates: bool
    database: str
    """The target's own, beside which it is."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}, of role {self.owner!r}"

    @property
    def unfinished(self) -> bool:
        """Whether a start has to finish something because of it, or to refuse."""
        if self.opened:
            return self.ours or self.migrates
        # a swap that restores nothing has no journal: what it replaced shows that it is unfinished
        return self.ours and any(
            each.kind == "replaced" for each in among([self.name], self.database)
        )

    @property
    def refused(self) -> str:
        """Why a start must not go on: it may be the journal of a former login. Empty if it may."""
        if self.ours or not self.unfinished:
            return ""
        said, named = self.kind.upper(), self.name
        remove = f"DROP {said} {named}"
        if self.kind == "database":
            named = quoted_name(self.name)
            remove = f"COMMENT ON DATABASE {named} IS NULL"
        return (
            f"{self}, tells of a migration of database {self.database!r} that did not end and has "
            "to be undone. It may be true; but that role is neither this role nor the database's "
            "owner, nor a member of one of them, so nobody can tell; nothing was changed. If it is "
            "a former login of the application, hand it over, and the next start does what it "
            f"says: ALTER {said} {named} OWNER TO the database's owner. If not, take it away: "
            f"{remove}. Either takes that role or a superuser"
        )


def notes(found: Iterable[Claim]) -> tuple[str, ...]:
    """The words for the report about what is not ours, one line for each role that has some."""
    strange: dict[str, list[str]] = {}
    said = []
    for each in found:
        if each.refused:
            said.append(each.refused)
        elif not each.ours:
            strange.setdefault(each.owner, []).append(f"{each.kind} {each.name}")
    said += [
        f"role {owner!r} has {listed(names)}, with a name of ours; only what a role has that is "
        "trusted with this database is ours: it counts for nothing, and stays as it is"
        for owner, names in strange.items()
    ]
    return tuple(said)


async def able(
    connection: AsyncConnection, places: Mapping[VersionTable, str], roles: Collection[str]
) -> frozenset[str]:
    """Return those of the roles that could have migrated the connection's database."""
    rows = await rows_of(
        connection,
        f"""
        select rolname::text from pg_roles c
        where rolname = any(cast(:roles as text[])) and {_WRITES.format(role="c.oid")}
        """,
        roles=list(roles),
        **_of(places),
    )
    return frozenset(row[0] for row in rows)


def _of(places: Mapping[VersionTable, str]) -> dict[str, list[str]]:
    return {"schemas": list(places.values()), "tables": [table.name for table in places]}


async def any_claim(connection: AsyncConnection, keys: Sequence[int]) -> bool:
    """Whether something beside our own schema has a name of ours; to judge it takes far longer.

    Of notes those of these lock keys.
    """
    query = f"""
        select exists (select from pg_database where datname ~ '__automigrator_')
            or exists (select from pg_namespace n where n.nspname = '{SCHEMA_OF_OURS}' and (
                n.nspowner not in {OURS_HERE} or exists (
                    select from pg_type t where t.typnamespace = n.oid
                    and t.typname = any(cast(cast(:names as text[]) as name[])))))
    """
    # checksums stay, and decide nothing
    kinds = set(get_args(Note)) - {"checksums"}
    names = [f"{kind}{ending_of(key)}" for kind in kinds for key in keys]
    ((found,),) = await rows_of(connection, query, names=names)
    return bool(found)


def ending_of(key: int) -> str:
    """How the notes of a lock key end."""
    return f"_{key % 2**64:016x}"


async def claims(
    connection: AsyncConnection, places: Mapping[VersionTable, str]
) -> tuple[Claim, ...]:
    """Return what has a name of ours beside the connection's database and in it.

    `places` are the schemas of the target's version tables.
    """
    rows = await rows_of(
        connection,
        f"""
        with found (kind, name, owner, holder, comment) as materialized (
            select 'database', d.datname::text, d.datdba, d.datdba,
                   shobj_description(d.oid, 'pg_database')
            from pg_database d where d.datname ~ '__automigrator_'
            union all
            select 'domain', n.nspname || '.' || t.typname, t.typowner, n.nspowner,
                   obj_description(t.oid, 'pg_type')
            from pg_type t join pg_namespace n on n.oid = t.typnamespace
            where n.nspname = '{SCHEMA_OF_OURS}'
            union all
            select 'schema', n.nspname, n.nspowner, n.nspowner, null
            from pg_namespace n where n.nspname = '{SCHEMA_OF_OURS}'),
        judged as (
            select f.*, coalesce(comment like any(cast(:open as text[])), false) as opened,
                   owner in {OURS_HERE} as own, holder in {OURS_HERE} as kept
            from found f)
        -- a journal of ours in another role's schema is in the hands of that role
        select case when own and opened and not kept then 'schema' else kind end,
               case when own and opened and not kept then '{SCHEMA_OF_OURS}' else name end,
               pg_get_userbyid(case when own then holder else owner end)::text,
               own and kept, opened, opened and (own or {_WRITES.format(role="owner")}),
               current_database()::text
        from judged order by kind, name
        """,
        open=list(OPEN),
        **_of(places),
    )
    found = [Claim(*row) for row in rows]
    return tuple(c for c in found if c.kind != "database" or among([c.name], c.database))
