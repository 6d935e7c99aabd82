"""All that a file holds, so that two can be compared: definitions, settings, every row."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from automigrator.backends.contract.sides import Contents, digest_of

_SETTINGS = ("user_version", "application_id", "encoding", "auto_vacuum", "page_size")


def contents(connection: Connection) -> Contents:
    """Read a file of the side."""

    def asked(sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]

    structure = {f"{name}|{asked(f'PRAGMA {name}')[0][0]}" for name in _SETTINGS}
    rows = {}
    for kind, name, of, sql in asked("select type, name, tbl_name, sql from sqlite_master"):
        structure.add(f"{kind}|{name}|{of}|{sql}")
        virtual = str(sql).lower().startswith("create virtual")
        if kind == "table" and not virtual and (not name.startswith("sqlite_") or sql):
            quoted = '"' + name.replace('"', '""') + '"'
            # generated columns, too
            columns = tuple(str(row[1]) for row in asked(f"PRAGMA table_xinfo({quoted})"))
            found = asked(f"select * from {quoted}")
            rows[name] = columns, tuple(tuple(map(digest_of, row)) for row in found)
    connection.rollback()
    return Contents(frozenset(structure), rows)
