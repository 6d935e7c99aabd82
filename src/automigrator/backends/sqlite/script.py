"""The SQL that makes an empty file what another one is: definitions, settings, every row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy.engine import Connection

from automigrator.backends.sqlite.reader import quoted
from automigrator.errors import RefusedError

_SETTINGS = ("user_version", "application_id")


def script(connection: Connection) -> tuple[str, ...]:
    """The statements, in order. Raises RefusedError for what no statement makes."""
    statements = tuple(_statements(connection))
    connection.rollback()
    return statements


def _statements(connection: Connection) -> Iterator[str]:
    def asked(sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]

    # rows come before the rows that they refer to
    yield "PRAGMA defer_foreign_keys=ON"
    for name in _SETTINGS:
        ((value,),) = asked(f"PRAGMA {name}")
        if value:
            yield f"PRAGMA {name}={value}"
    found = asked("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
    tables = [(str(name), str(sql)) for kind, name, sql in found if kind == "table"]
    for name, sql in tables:
        if sql.lower().startswith("create virtual"):
            raise RefusedError(
                f"the table {name} is a virtual one, which cannot be written as SQL; nothing was "
                "written, and new databases run every revision"
            )
        if not name.startswith("sqlite_"):
            yield sql
    for name, _ in tables:
        yield from _rows(asked, name)
    # now, as a trigger would change rows
    for kind, _, sql in found:
        if kind != "table":
            yield str(sql)


def _rows(asked: Any, name: str) -> Iterator[str]:
    if name == "sqlite_sequence":
        yield "DELETE FROM sqlite_sequence"
    columns = [str(row[1]) for row in asked(f"PRAGMA table_xinfo({quoted(name)})") if not row[6]]
    listed = ", ".join(map(quoted, columns))
    for row in asked(f"SELECT {listed} FROM {quoted(name)}"):
        yield f"INSERT INTO {quoted(name)} ({listed}) VALUES ({', '.join(map(_literal, row))})"


def _literal(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bytes():
            return f"X'{value.hex()}'"
        case float():
            return repr(value).replace("inf", "9e999")
        case str() if "\0" in value:
            return f"CAST(X'{value.encode().hex()}' AS TEXT)"
        case str():
            return "'" + value.replace("'", "''") + "'"
    return str(value)
