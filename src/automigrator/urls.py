"""Database URLs: taken to their async driver, and rendered without secrets."""

from __future__ import annotations

import re

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from automigrator.errors import ConfigurationError

ASYNC_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg"}
_SECRET_KEYS = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):([^\s@]*)@")


def parse(text: str | URL) -> URL:
    """A URL object; raises ConfigurationError without repeating what may hold a password."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError(
            "the database URL cannot be parsed; it looks like "
            "sqlite+aiosqlite:///path/to/file.db or postgresql+asyncpg://user:password@host/database"
        ) from None
    if url.get_backend_name() == "postgres":
        raise ConfigurationError(
            "SQLAlchemy calls the dialect 'postgresql', not 'postgres'; "
            "write postgresql+asyncpg://user:password@host/database"
        )
    return url


def with_async_driver(url: URL) -> URL:
    """The same database through the async driver automigrator uses; other dialects unchanged."""
    backend = url.get_backend_name()
    driver = ASYNC_DRIVERS.get(backend)
    if driver is None or url.drivername == f"{backend}+{driver}":
        return url
    if url.get_dialect().is_async:
        return url
    return url.set(drivername=f"{backend}+{driver}")


def rendered(url: URL) -> str:
    """The URL for people: no password, no secret query values."""
    query = {key: "***" if _SECRET_KEYS.search(key) else value for key, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def scrubbed(text: str, *urls: URL) -> str:
    """Free text (a driver's message) with every password of `urls`, and any in a URL, masked."""
    for url in urls:
        if isinstance(url.password, str) and url.password:
            text = text.replace(url.password, "***")
    return _URL_PASSWORD.sub(r"\1:***@", text)
