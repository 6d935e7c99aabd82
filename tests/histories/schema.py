"""What stands in a database, as SQLAlchemy reflects it; sorted, so that two can be compared."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Inspector

Described = dict[str, list[str]]


def described(connection: Connection) -> dict[str, Described]:
    """Every table and view, and the kinds that columns refer to, each part as sorted text."""
    inspector = sa.inspect(connection)
    found = {name: _table(connection, inspector, name) for name in inspector.get_table_names()}
    found |= {
        f"view {name}": {"definition": [inspector.get_view_definition(name) or ""]}
        for name in inspector.get_view_names()
    }
    for enum in getattr(inspector, "get_enums", list)():
        found[f"enum {enum['name']}"] = {"labels": list(enum["labels"])}
    return found


def rows(connection: Connection) -> dict[str, list[str]]:
    """What is in every table."""
    return {
        name: sorted(map(str, connection.execute(sa.text(f'SELECT * FROM "{name}"'))))
        for name in sa.inspect(connection).get_table_names()
    }


def versions(connection: Connection, table: str) -> list[str]:
    """The rows of a version table."""
    return sorted(
        connection.scalars(sa.select(sa.column("version_num")).select_from(sa.table(table)))
    )


def _table(connection: Connection, inspector: Inspector, name: str) -> Described:
    def column(each: Any) -> str:
        # a type's repr leaves out what only its DDL shows
        each = {**each, "type": each["type"].compile(dialect=connection.dialect)}
        return _text(each)

    return {
        "columns": sorted(map(column, inspector.get_columns(name))),
        "primary key": [_text(inspector.get_pk_constraint(name))],
        "foreign keys": sorted(map(_text, inspector.get_foreign_keys(name))),
        "uniques": sorted(map(_text, inspector.get_unique_constraints(name))),
        "checks": sorted(map(_text, inspector.get_check_constraints(name))),
        "indexes": sorted(map(_text, inspector.get_indexes(name))),
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_text(v)}" for k, v in sorted(value.items())) + "}"
    return str(value)
