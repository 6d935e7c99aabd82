"""Where a SQLite URL's database is."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote

from sqlalchemy import URL
from sqlalchemy.util import asbool


def file_of(url: URL) -> Path | None:
    """The file a URL names, links followed; None for a database in memory."""
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


def named_like(url: URL, place: Path) -> str:
    """How a URL names the database at `place` when the rest of it stays as it is."""
    return place.as_uri() if _is_uri(url) else str(place)


def _is_uri(url: URL) -> bool:
    # without uri=true `file:app.db` is a plain name, and the rest of the query means nothing
    return asbool(url.query.get("uri")) and (url.database or "").startswith("file:")
