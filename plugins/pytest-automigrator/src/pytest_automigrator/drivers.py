"""The driver that a test's URL names."""

from __future__ import annotations

import importlib.util

from sqlalchemy import URL

SYNC = {"sqlite": ("sqlite",), "postgresql": ("postgresql+psycopg", "postgresql+psycopg2")}
ASYNC = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}

_MODULES = {"postgresql+psycopg": "psycopg", "postgresql+psycopg2": "psycopg2"}


class DriverError(Exception):
    """Raised where no driver for a sync engine is installed."""


def sync(url: URL, named: str) -> URL:
    """The URL with a sync driver: the one that the configuration names, else an installed one.

    Raises DriverError.
    """
    kind = url.get_backend_name()
    if named in SYNC[kind]:
        return url.set(drivername=named)
    for each in SYNC[kind]:
        if each not in _MODULES or importlib.util.find_spec(_MODULES[each]) is not None:
            return url.set(drivername=each)
    raise DriverError(
        "migrated_engine needs a sync driver for PostgreSQL: pip install 'psycopg[binary]'; "
        "or use migrated_async_engine"
    )


def asynchronous(url: URL) -> URL:
    """The URL with an async driver."""
    return url.set(drivername=ASYNC[url.get_backend_name()])


def applications(url: URL, named: str) -> URL:
    """The URL with the driver that the configuration names, where that is for such a database.

    Else with a sync driver, or the async one where none is installed.
    """
    kind = url.get_backend_name()
    if named.partition("+")[0] == kind:
        return url.set(drivername=named)
    try:
        return sync(url, named)
    except DriverError:
        return asynchronous(url)
