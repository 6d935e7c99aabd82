"""All that a PostgreSQL database holds, row by row, comparable before and after."""

from __future__ import annotations

from typing import Any

from support.alembic_projects import query

_TABLES = """
    select format('%I.%I', n.nspname, c.relname), c.relkind::text
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'm', 'v', 'S') and n.nspname !~ '^pg_'
      and n.nspname not in ('information_schema', 'automigrator') order by 1
"""
_SCHEMA = {
    "columns": """
        select format('%s.%s', c.table_schema, c.table_name), c.column_name, c.data_type,
               c.is_nullable, c.is_identity, c.is_generated, c.udt_name
        from information_schema.columns c
        where c.table_schema not in ('pg_catalog', 'information_schema', 'automigrator')
        order by 1, c.ordinal_position""",
    "indexes": """select indexdef from pg_indexes
        where schemaname not in ('pg_catalog', 'automigrator') order by 1""",
    "constraints": """select conrelid::regclass::text, conname, contype::text
        from pg_constraint where connamespace::regnamespace::text !~ '^(pg_|information_schema)'
          and contype <> 'n' order by 1, 2""",
    "functions": """select oid::regprocedure::text, md5(prosrc), pg_get_userbyid(proowner)::text
        from pg_proc where pronamespace::regnamespace::text !~ '^(pg_|information_schema)'
        order by 1""",
    "triggers": "select tgname::text from pg_trigger where not tgisinternal order by 1",
    "policies": "select polname::text from pg_policy order by 1",
    "enums": """select enumtypid::regtype::text, enumlabel::text from pg_enum
        order by 1, enumsortorder""",
    "extensions": """select extname::text, extnamespace::regnamespace::text, extversion
        from pg_extension order by 1""",
    "schemas": """select nspname::text, pg_get_userbyid(nspowner)::text, nspacl::text
        from pg_namespace where nspname !~ '^pg_' and nspname <> 'automigrator' order by 1""",
    "owners": """select relname::text, pg_get_userbyid(relowner)::text, relacl::text
        from pg_class where relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
          and relkind in ('r', 'p', 'v', 'm', 'S') order by 1""",
}


def checksums(url: str) -> dict[str, Any]:
    """A checksum over every row of every table, the state of sequences, and the schema."""
    found: dict[str, Any] = {}
    for name, kind in query(url, _TABLES):
        columns = "last_value || ' ' || is_called" if kind == "S" else "t::text"
        (row,) = query(
            url,
            f"select count(*), md5(coalesce(string_agg(line, chr(10) order by line collate "
            f"\"C\"), '')) from (select {columns} as line from {name} t) rows",
        )
        found[name] = tuple(row)
    for what, sql in _SCHEMA.items():
        found[what] = [tuple(row) for row in query(url, sql)]
    return found
