"""Tables of a SQLite file that are not the target's: another application's, another history's."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from automigrator.backends.contract.sides import Known, unknown
from automigrator.backends.sqlite.reader import Ask, quoted
from automigrator.errors import RefusedError

# a virtual table's own tables come and go with it; older libraries cannot tell them
_LISTED = (
    "SELECT name FROM pragma_table_list "
    "WHERE schema = 'main' AND type IN ('table', 'virtual') AND name NOT GLOB 'sqlite_*'"
    if sqlite3.sqlite_version_info >= (3, 37)
    else "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
)

_TEMPORARY = "_alembic_tmp_"
"""What batch mode puts before the name of a table that it recreates."""


def tables(ask: Ask) -> frozenset[str]:
    """Return the names of the tables, in lower case: SQLite tells no others apart."""
    return frozenset(str(row[0]).lower() for row in ask(_LISTED))


def ensure_none(ask: Ask, file: object, own: Collection[str], known: Known | None) -> None:
    """Raise RefusedError where a file holds another history, or a table that is not known.

    `own` are the names of the target's version tables. Raises what SQLite raises.
    """
    rest = sorted(tables(ask) - {name.lower() for name in own})
    histories = [name for name in rest if _is_history(ask, name)]
    if histories:
        raise RefusedError(
            f"cannot replace {file}: it has another history's version table: "
            f"{', '.join(histories)}; nothing was changed. Give the target a file of its own, or "
            "leave the strategy out for it with Target(recovery=[...])"
        )
    if known is None or known.tables is None:
        return
    names = {each.lower() for each in (*known.also, *(name for _, name in known.tables))}
    strangers = [each for each in rest if each.removeprefix(_TEMPORARY) not in names]
    if strangers:
        raise unknown(str(file), strangers)


def _is_history(ask: Ask, name: str) -> bool:
    columns = [str(row[1]) for row in ask(f"PRAGMA table_info({quoted(name)})")]
    return columns == ["version_num"]
