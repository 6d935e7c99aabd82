"""Which files a connection or a URL leads to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from sqlalchemy import URL
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.util import asbool

from automigrator.errors import JudgedError

T = TypeVar("T")

_USUAL = {"vfs": ("unix", "unix-excl", "memdb"), "nolock": ("0", "false", "no", "off")}
"""Values of a URL's options with which SQLite locks the file."""

BEFORE_COMMIT = "automigrator before commit"
"""The key, in a connection's `info`, of what is called before each COMMIT."""


def rows_of(dbapi: Any, sql: str) -> list[tuple[Any, ...]]:
    """Ask the driver's own connection: SQLAlchemy's would begin a transaction for it."""
    with closing(dbapi.cursor()) as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def roll_back(dbapi: Any) -> None:
    """End the transaction that the driver's own connection has open, if it has one."""
    with suppress(sqlite3.Error, SQLAlchemyError):
        rows_of(dbapi, "ROLLBACK")


def in_driver(dbapi: Any, act: Callable[[Any], T]) -> T:
    """Call `act` with Python's own connection, in the thread that it belongs to."""
    run_async = getattr(dbapi, "run_async", None)
    if run_async is None:
        return act(dbapi)
    done: T = run_async(lambda driver: driver._execute(act, driver._conn))
    return done


def files_of(dbapi: Any) -> tuple[tuple[str, str], ...]:
    """Return the databases open in a driver's connection, by name; in memory without a path."""
    rows = rows_of(dbapi, "PRAGMA database_list")
    return tuple(sorted((str(name), str(path or "")) for _, name, path in rows if name != "temp"))


def file_behind(dbapi: Any) -> Path | None:
    """Return the file that a driver's connection leads to; None in memory or in doubt."""
    with suppress(sqlite3.Error, SQLAlchemyError):
        if path := dict(files_of(dbapi)).get("main"):
            return Path(path).resolve()
    return None


def main_file(connection: Connection) -> Path | None:
    """Return the file that SQLAlchemy's connection leads to; None in memory or in doubt."""
    return file_behind(connection.connection.dbapi_connection)


def ensure_leads_to(file: Path, dbapi: Any) -> None:
    """Close a connection that leads to another file than `file`, and raise JudgedError.

    Otherwise one file would be locked, looked at and copied, and another one migrated.
    """
    place = file_behind(dbapi)
    if place is None or place == file:
        return
    if place.exists() and file.exists() and place.samefile(file):
        return
    dbapi.close()
    raise JudgedError(
        "env",
        f"the application's engine leads to {place}, and its URL to {file}; nothing was changed",
        "give the engine an absolute path, or the URL of the file that its creator opens",
    )


def file_of(url: URL) -> Path | None:
    """Return the file that a URL names, links followed; None for a database in memory."""
    database = url.database or ""
    if not database or database == ":memory:":
        return None
    if not _is_uri(url):
        return Path(database).resolve()
    name, _, query = database.removeprefix("file:").partition("#")[0].partition("?")
    asked = {**dict(parse_qsl(query)), **url.query}
    if name == ":memory:" or asked.get("mode") == "memory" or asked.get("vfs") == "memdb":
        return None
    if name.startswith("//"):
        name = "/" + name[2:].partition("/")[2]
    return Path(unquote(name)).resolve()


def ensure_locks(url: URL) -> None:
    """Raise JudgedError where a URL opens its file without SQLite's usual locks.

    Our own connections would not be kept apart from those, while a file is copied or put back.
    """
    query = (url.database or "").partition("?")[2] if _is_uri(url) else ""
    asked = {**dict(parse_qsl(query)), **url.query}
    unusual = [
        f"{name}={value}" for name, value in asked.items() if value not in _USUAL.get(name, value)
    ]
    if unusual:
        raise JudgedError(
            "env",
            f"the URL opens the file with {', '.join(map(str, unusual))}, without the locks that "
            "keep SQLite's connections apart; nothing was changed",
            "migrate with a URL without that: Target(migrate_with=...)",
        )


def named_like(url: URL, place: Path) -> str:
    """Return what replaces the database in a URL so that it leads to `place`."""
    return place.as_uri() if _is_uri(url) else str(place)


def _is_uri(url: URL) -> bool:
    # without uri=true `file:app.db` is a plain name, and the rest of the query means nothing
    return asbool(url.query.get("uri")) and (url.database or "").startswith("file:")
