"""What a database holds, its schema and its rows, and how two of them differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, inspect
from sqlalchemy.engine import Connection

from automigrator.testing.contents import connected
from pytest_automigrator import drivers
from pytest_automigrator.application import awaited

Rows = Counter[tuple[str, ...]]

_FOREIGN = "('pg_catalog', 'information_schema', 'pg_toast', 'automigrator')"

_POSTGRESQL = f"""
with spaces as (
    select oid, nspname from pg_namespace
    where nspname not in {_FOREIGN} and nspname not like 'pg_temp%'
), ours as (
    select c.oid, c.relkind, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relpersistence,
        c.reloptions, case s.nspname when 'public' then '' else s.nspname || '.'
        end || c.relname as name
    from pg_class c join spaces s on s.oid = c.relnamespace
    where not exists (select 1 from pg_depend d where d.objid = c.oid and d.deptype = 'e')
)
select name || '.' || attname, format_type(atttypid, atttypmod)
    || case when attnotnull then ' not null' else '' end
    || coalesce(' default ' || pg_get_expr(adbin, adrelid), '') || ' ' || attidentity::text
    || coalesce(' ' || quote_literal(col_description(ours.oid, attnum)), '')
from ours join pg_attribute on attrelid = ours.oid
    left join pg_attrdef on adrelid = ours.oid and adnum = attnum
where attnum > 0 and not attisdropped and relkind in ('r', 'p', 'f')
union all select 'constraint ' || conname || ' of ' || name, pg_get_constraintdef(c.oid)
    || case when convalidated then '' else ' not validated' end
from pg_constraint c join ours on ours.oid = conrelid
union all select 'index ' || name, pg_get_indexdef(ours.oid) || case when indisvalid then ''
    else ' invalid' end
from ours join pg_index on indexrelid = ours.oid
union all select 'view ' || name, pg_get_viewdef(oid) from ours where relkind in ('v', 'm')
union all select 'table ' || name, concat_ws(' ', relkind,
    case when relrowsecurity then 'row security' end,
    case when relforcerowsecurity then 'forced' end,
    case when relpersistence = 'u' then 'unlogged' end, array_to_string(reloptions, ','),
    quote_literal(obj_description(ours.oid, 'pg_class')))
from ours where relkind in ('r', 'p', 'f')
union all select 'policy ' || polname || ' of ' || name, concat_ws(' ', polcmd, polpermissive,
    (select string_agg(quote_ident(rolname), ',' order by rolname) from pg_roles
    where oid = any (polroles)), pg_get_expr(polqual, polrelid),
    pg_get_expr(polwithcheck, polrelid))
from pg_policy join ours on ours.oid = polrelid
union all select 'sequence ' || name, concat_ws(' ', format_type(seqtypid, null), seqstart,
    seqincrement, seqmin, seqmax, seqcache, case when seqcycle then 'cycle' end)
from ours join pg_sequence on seqrelid = ours.oid where relkind = 'S'
union all select 'trigger ' || tgname || ' of ' || name, pg_get_triggerdef(t.oid)
from pg_trigger t join ours on ours.oid = tgrelid where not tgisinternal
union all select 'function ' || p.oid::regprocedure, pg_get_functiondef(p.oid)
from pg_proc p join spaces s on s.oid = pronamespace where prokind in ('f', 'p')
    and not exists (select 1 from pg_depend d where d.objid = p.oid and d.deptype = 'e')
union all select 'type ' || typname, string_agg(enumlabel, ',' order by enumsortorder)
from pg_type t join spaces s on s.oid = typnamespace join pg_enum on enumtypid = t.oid
group by typname
union all select 'domain ' || typname, format_type(typbasetype, typtypmod)
    || case when typnotnull then ' not null' else '' end || coalesce(' default ' || typdefault, '')
    || coalesce(' ' || (select string_agg(pg_get_constraintdef(c.oid), ' ' order by conname)
    from pg_constraint c where contypid = t.oid), '')
from pg_type t join spaces s on s.oid = typnamespace where typtype = 'd'
union all select 'schema ' || nspname, '' from spaces where nspname <> 'public'
union all select 'extension ' || extname, '' from pg_extension where extname <> 'plpgsql'
"""

_TABLES = f"""
select quote_ident(nspname) || '.' || quote_ident(relname),
    case nspname when 'public' then '' else nspname || '.' end || relname
from pg_class c join pg_namespace s on s.oid = relnamespace
where relkind in ('r', 'p') and not relispartition and nspname not in {_FOREIGN}
"""


@dataclass(frozen=True)
class State:
    """`schema`: a definition for each thing's name. `rows`: for each table its columns and rows.

    The rows' values are in the order of the columns' names: a column that was added again is the
    last one.
    """

    schema: Mapping[str, str]
    rows: Mapping[str, tuple[tuple[str, ...], Rows]]


def state_of(url: URL, version_tables: Collection[str] = ("alembic_version",)) -> State:
    """Read a database, whatever its URL's driver is; the version tables are left out."""

    async def work() -> State:
        async with connected(drivers.asynchronous(url)) as connection:
            return await connection.run_sync(_read, version_tables)

    return awaited(work)


def _read(connection: Connection, version_tables: Collection[str]) -> State:
    if connection.dialect.name == "postgresql":
        schema = dict(_pairs(connection, _POSTGRESQL))
        tables = dict(_pairs(connection, _TABLES))
    else:
        quote = connection.dialect.identifier_preparer.quote
        names = inspect(connection).get_table_names()
        schema = dict(_sqlite(connection, names))
        tables = {quote(name): name for name in names}
    # a name has its schema before it where that is not public
    versions = {
        each for each in tables.values() if {each, each.partition(".")[2]} & set(version_tables)
    }
    own = {name for name in schema if any(_is_of(name, each) for each in versions)}
    return State(
        {name: text for name, text in schema.items() if name not in own},
        {n: _rows(connection, quoted) for quoted, n in tables.items() if n not in versions},
    )


def _is_of(name: str, table: str) -> bool:
    """Whether something belongs to a table: the table, its columns, keys and their index."""
    tails = (f"table {table}", f" of {table}", f"index {table}_pkc")
    return name.startswith(f"{table}.") or name.endswith(tails)


def _pairs(connection: Connection, sql: str) -> Iterator[tuple[str, str]]:
    for name, definition in connection.exec_driver_sql(sql.replace("%", "%%")):
        yield str(name), str(definition).strip()


def _sqlite(connection: Connection, names: list[str]) -> Iterator[tuple[str, str]]:
    """By reflection: the text of a table that batch mode has made varies."""
    looked = inspect(connection)
    for name in names:
        yield f"table {name}", ""
        for column in looked.get_columns(name):
            words = [str(column["type"]), "" if column["nullable"] else "not null"]
            words.append(f"default {column['default']}" if column["default"] else "")
            yield f"{name}.{column['name']}", " ".join(filter(None, words))
        yield f"primary key of {name}", repr(looked.get_pk_constraint(name)["constrained_columns"])
        numbered: Counter[str] = Counter()
        for kind, found in (
            ("foreign key", looked.get_foreign_keys(name)),
            ("unique constraint", looked.get_unique_constraints(name)),
            ("check", looked.get_check_constraints(name)),
        ):
            for text in sorted(_described(each) for each in found):
                numbered[text] += 1
                yield f"{kind} {text} of {name}", str(numbered[text])
    sql = "select type || ' ' || name, sql from sqlite_master where sql is not null"
    yield from _pairs(connection, f"{sql} and type in ('index', 'view', 'trigger')")


def _described(constraint: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(constraint.items()) if value)


def _rows(connection: Connection, quoted: str) -> tuple[tuple[str, ...], Rows]:
    result = connection.exec_driver_sql(f"select * from {quoted}")
    order = sorted(range(len(result.keys())), key=list(result.keys()).__getitem__)
    columns = tuple(list(result.keys())[each] for each in order)
    return columns, Counter(tuple(repr(row[each]) for each in order) for row in result)


def differences(before: State, after: State) -> list[str]:
    """A line for each difference, without any value of a row."""
    lines = []
    whole = [
        name.removeprefix("table ")
        for name in before.schema.keys() ^ after.schema.keys()
        if name.startswith("table ")
    ]
    for name in sorted(before.schema.keys() | after.schema.keys()):
        if any(name.startswith(f"{each}.") or name.endswith(f" of {each}") for each in whole):
            continue  # the table itself says enough
        was, now = before.schema.get(name), after.schema.get(name)
        if now is None:
            lines.append(f"{name}: lost")
        elif was is None:
            lines.append(f"{name}: left over")
        elif was != now:
            lines.append(f"{name}: was {was!r}, is {now!r}")
    for name in sorted(before.rows.keys() & after.rows.keys()):
        lines += _row_differences(name, before.rows[name], after.rows[name])
    return lines


def _row_differences(
    name: str, before: tuple[tuple[str, ...], Rows], after: tuple[tuple[str, ...], Rows]
) -> Iterator[str]:
    (columns, was), (now_columns, now) = before, after
    if columns != now_columns or was == now:  # the schema's difference says so already
        return
    counts = f"{was.total()} rows before, {now.total()} after"
    if was.total() != now.total():
        yield f"rows of {name}: {counts}"
        return
    wrong = [
        column
        for number, column in enumerate(columns)
        if _column(was, number) != _column(now, number)
    ]
    where = f" in {', '.join(wrong)}" if wrong else ""
    yield f"rows of {name}: {(was - now).total()} of {was.total()} differ{where}"


def _column(rows: Rows, number: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for row, count in rows.items():
        found[row[number]] += count
    return found
