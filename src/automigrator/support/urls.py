"""Database URLs: taken to their async driver, and rendered without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from automigrator.errors import ConfigurationError

ASYNC_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg"}

_ASYNC_AS_WELL = frozenset({"postgresql+psycopg"})

# a text: what re compiles, it keeps, and a start with nothing to do hardly needs it
_SECRET_KEYS = r"(?i)pass|pwd|secret|token|key|auth|credential|signature"

_HOLDS_MORE = ("dsn", "conninfo", "odbc_connect", "options", "server_settings")
"""Values of a query that may name a secret within."""


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
    led = bool(url.query) or "," in (url.host or "")
    if backend == "postgresql" and (led or any(name.startswith("PG") for name in os.environ)):
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
    hidden = {key for key in url.query if is_secret(key) or key in _HOLDS_MORE}
    query = {key: "***" if key in hidden else value for key, value in url.query.items()}
    shown = url.set(query=query)
    if url.username and not name_of(url):
        shown = shown.set(username="***")
    return shown.render_as_string(hide_password=True)


def name_of(url: URL) -> str:
    """The user, where it is a name and no token."""
    user = url.username or ""
    return "" if not url.password and is_token(user) else user


def is_token(user: str) -> bool:
    """Whether what stands in a user's place is no name: long, of letters and digits."""
    return len(user) >= 20 and any(map(str.isdigit, user)) and any(map(str.isalpha, user))


def secrets_of(url: URL) -> Iterator[str]:
    """The password, a user that is a token, and the secret values of the query."""
    if url.password:
        yield str(url.password)
    elif url.username and not name_of(url):
        yield url.username
    yield from secrets_in(url.query)


def secrets_in(arguments: Mapping[str, Any]) -> Iterator[str]:
    """The secret values of a query, or of what a driver is given to connect with."""
    for key, value in arguments.items():
        if isinstance(value, Mapping):  # server settings, headers
            yield from secrets_in(value)
        elif isinstance(value, URL):
            yield from secrets_of(value)
        for each in (value,) if isinstance(value, str | bytes) else _texts(value):
            text = each.decode("utf-8", "replace") if isinstance(each, bytes) else each
            if is_secret(key):
                yield text
            if key in _HOLDS_MORE or "://" in text:
                from automigrator.support.secrets import named_in  # local: few have one

                yield from named_in(text)
                with suppress(ArgumentError, ValueError):  # a URL within the URL
                    yield from secrets_of(make_url(text))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, list | tuple):
        yield from (each for each in value if isinstance(each, str))


def is_secret(key: str) -> bool:
    """Whether what a driver is given under this name is one."""
    return re.search(_SECRET_KEYS, key) is not None
