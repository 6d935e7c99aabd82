"""Where a SQLite URL's database is."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import URL


def file_of(url: URL) -> Path | None:
    """The file a URL names, links followed; None for a database in memory."""
    database = url.database or ""
    if not database or database == ":memory:" or url.query.get("mode") == "memory":
        return None
    if database.startswith("file:"):
        name, _, query = database.removeprefix("file:").partition("?")
        if "mode=memory" in query.split("&") or name == ":memory:":
            return None
        if name.startswith("//"):
            name = "/" + name[2:].partition("/")[2]
        return Path(unquote(name)).resolve()
    return Path(database).resolve()
