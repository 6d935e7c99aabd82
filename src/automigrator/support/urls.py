"""Database URLs: taken to their async driver, and rendered without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote, quote_plus

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from automigrator.errors import ConfigurationError

ASYNC_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg"}

_ASYNC_AS_WELL = frozenset({"postgresql+psycopg"})

# texts: what re compiles, it keeps, and a start with nothing to do needs hardly any of them
_SECRET_KEYS = r"(?i)pass|pwd|secret|token|key|^dsn$"

_URL_PASSWORD = r"(?<=://)([^\s:/@]*):([^\s@]*)@"

_NAMED = (
    r"""(?i)((?:pass|pwd|secret|token)\w*(?:\s*=|['"]\s*[=:])\s*)"""
    r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s&,;'")\]}]+)"""
)

"""A query's, a libpq string's, a dictionary's: what stands behind the name is the secret."""


def parse(text: str | URL) -> URL:
    """A URL object; raises ConfigurationError without repeating what may hold a password."""
    url: URL | None = None
    with suppress(ArgumentError, ValueError):  # they quote it, and nothing may lead to ours
        url = make_url(text)
    if url is None:
        raise ConfigurationError(
            "the database URL cannot be parsed; it looks like "
            "sqlite+aiosqlite:///path/to/file.db or "
            "postgresql+asyncpg://user:password@host:port/database, and within the password @, : "
            "and / are written %40, %3A and %2F"
        )
    if url.get_backend_name() == "postgres":
        raise ConfigurationError(
            "SQLAlchemy calls the dialect 'postgresql', not 'postgres'; "
            "write postgresql+asyncpg://user:password@host/database"
        )
    return url


def with_async_driver(url: URL) -> URL:
    """The same database through an async driver: the URL's own where it is one.

    Other dialects are unchanged. Raises ConfigurationError for what no async driver takes.
    """
    backend = url.get_backend_name()
    driver = ASYNC_DRIVERS.get(backend)
    drivername = f"{backend}+{driver}"
    if driver is None:
        return url
    if url.get_dialect().is_async or url.drivername in _ASYNC_AS_WELL:
        drivername = url.drivername
    if backend == "postgresql" and (url.query or "," in (url.host or "")):
        from automigrator.support import postgresql_urls  # local: few URLs have a query

        return postgresql_urls.for_async(url, drivername)
    return url.set(drivername=drivername)


def settled(url: URL) -> URL:
    """The same, with the database, user and password that its query names in its own parts."""
    if url.get_backend_name() != "postgresql" or not url.query:
        return url
    from automigrator.support import postgresql_urls  # local: few URLs have a query

    return postgresql_urls.settled(url)


def connect_args(url: URL, drivername: str) -> dict[str, Any]:
    """What of a URL's query a driver takes as an argument, and not in its own URL."""
    if url.get_backend_name() != "postgresql" or not url.query:
        return {}
    from automigrator.support import postgresql_urls  # local: few URLs have a query

    return dict(postgresql_urls.connect_args(url, drivername))


def rendered(url: URL) -> str:
    """The URL for people: no password, no secret query values."""
    query = {key: "***" if is_secret(key) else value for key, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def secrets_of(url: URL) -> Iterator[str]:
    """The password, and the secret values of the query."""
    if url.password:
        yield str(url.password)
    for key, value in url.query.items():
        if is_secret(key):
            yield from (value,) if isinstance(value, str) else value
        if key == "dsn" and isinstance(value, str):  # a URL within the URL
            with suppress(ArgumentError, ValueError):
                yield from secrets_of(make_url(value))


def is_secret(key: str) -> bool:
    """Whether what a driver is given under this name is one."""
    return re.search(_SECRET_KEYS, key) is not None


def scrubbed(text: str, *secrets: str) -> str:
    """Free text (a driver's message) with these secrets, and any in a URL or named so, masked."""
    spelled = {
        spelling
        for secret in secrets
        if secret
        for spelling in (secret, quote(secret, ""), quote(secret, " +"), quote_plus(secret))
    }
    for each in sorted(spelled, key=len, reverse=True):
        text = text.replace(each, "***")
    return re.sub(_NAMED, r"\1***", re.sub(_URL_PASSWORD, r"\1:***@", text))
