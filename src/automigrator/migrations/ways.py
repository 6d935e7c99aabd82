"""The ways to run an env.py: on the connection that it makes itself, or on one of ours."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Literal

from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import Place
from automigrator.errors import ConfigurationError
from automigrator.frozen import Frozen
from automigrator.support.error_chain import chain
from automigrator.target import Target

Offer = Literal["connection", "engine", "nothing"]

_SYNC_DRIVERS = {"postgresql": ("psycopg2", "psycopg"), "sqlite": ("pysqlite",)}

_BOTH = {"psycopg"}
"""Drivers of either kind."""

_PACKAGES = {
    "psycopg2": "psycopg2-binary",
    "psycopg": '"psycopg[binary]"',
    "asyncpg": "asyncpg",
    "aiosqlite": "aiosqlite",
    "pg8000": "pg8000",
}

_ASYNC = re.compile(r"\basync(io|_\w+|\s+def)\b")


class Way(Frozen):
    """One way to run env.py."""

    url: URL
    """What it finds as `sqlalchemy.url`."""
    ours: bool = False
    """Whether its connections to the target are made as the application makes its own."""
    offer: Offer = "nothing"
    """What it finds in `attributes["connection"]`."""
    refusal: ConfigurationError | None = None
    """Why it cannot be taken."""

    def __str__(self) -> str:
        return f"{self.how} ({self.url.drivername})"

    @property
    def how(self) -> str:
        """Whose connection it is, for a person."""
        if self.offer == "engine":
            return "given engine"
        how = "own" if not self.ours else "replaced" if self.offer == "nothing" else "given"
        return f"{how} connection"

    def told(self, drivers: Iterable[str]) -> str:
        """The way with the drivers that env.py was seen to use."""
        return f"{self.how} ({', '.join(dict.fromkeys(drivers))})"


def ways(
    target: Target, backend: Backend, place: Place, environment: str, named: URL | None
) -> list[Way]:
    """The ways open to a target, best first: as env.py's own command line would run it.

    `environment`: the text of env.py. `named`: the configuration's own URL.
    """
    found: list[Way] = []
    if target.drive != "given" and not place.in_place:
        given = backend.access.driver
        names = dict.fromkeys(_driver_names(place.url, given, environment, named))
        found += [_own(backend, place.url, name, named) for name in names]
    if target.drive != "own":
        offers: tuple[Offer, ...] = ("connection", "engine", "nothing")
        found += [Way(place.url, ours=True, offer=offer) for offer in offers]
    return found


def _own(backend: Backend, url: URL, drivername: str, named: URL | None) -> Way:
    """env.py's own connection with a driver, and with the options that the configuration names."""
    own = named if named is not None and named.drivername == drivername else None
    try:
        return Way(backend.url_for(url, drivername, own))
    except ConfigurationError as error:
        return Way(url.set(drivername=drivername, query={}), refusal=error)


def _driver_names(url: URL, given: str, environment: str, named: URL | None) -> Iterator[str]:
    """The driver that the configuration names; else those that env.py's shape asks for.

    `given`: the driver that the target names.
    """
    if named is not None:
        yield named.drivername
        with suppress(SQLAlchemyError, ImportError):
            dialect = named.get_dialect()
            # a sync driver in an async env.py is a leftover of another one
            fits = dialect.is_async or dialect.driver in _BOTH or not _ASYNC.search(environment)
            if fits and _installed(dialect.driver):
                return  # its command line would have no other
    backend = url.get_backend_name()
    own = [url.drivername]
    sync = [f"{backend}+{given}"] if given in _SYNC_DRIVERS.get(backend, ()) else []
    with suppress(SQLAlchemyError, ImportError):
        sync.append(f"{backend}+{url.set(drivername=backend).get_dialect().driver}")
    sync += [f"{backend}+{driver}" for driver in _SYNC_DRIVERS.get(backend, ())]
    sync = [name for name in sync if _installed(name.partition("+")[2])]
    yield from own + sync if _ASYNC.search(environment) else sync + own


def missing(error: BaseException) -> Iterator[str]:
    """The packages of the drivers that could not be imported."""
    for each in chain(error):
        if isinstance(each, ModuleNotFoundError) and each.name in _PACKAGES:
            yield _PACKAGES[each.name]


def _installed(driver: str) -> bool:
    return driver == "pysqlite" or importlib.util.find_spec(driver) is not None
