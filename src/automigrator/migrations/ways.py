"""The ways to run an env.py from a running loop; each is proved before it is used."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import URL

from automigrator.backends.contract.values import Place
from automigrator.support.error_chain import chain
from automigrator.target import Target

Offer = Literal["connection", "engine", "nothing"]

_SYNC_DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "sqlite": ("pysqlite",)}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run env.py; `offer` is the value that it finds in `attributes["connection"]`."""

    drive: Literal["loop", "thread"]
    offer: Offer
    url: URL
    replace: bool = True

    def __str__(self) -> str:
        if self.drive == "thread":
            return f"thread ({self.url.drivername})"
        return f"loop (offering {self.offer})"


def ways(target: Target, place: Place) -> list[Way]:
    """The ways open to a target, best first."""
    found: list[Way] = []
    if target.drive != "thread":
        found += [Way("loop", offer, place.url) for offer in get_args(Offer)]
    if target.drive != "loop" and not place.in_place:
        # the sync driver first: a sync env.py would leave a coroutine of asyncpg's unawaited
        urls = (_sync_url(place.url), place.url)
        found += [Way("thread", "nothing", url) for url in urls if url is not None]
    return found


def _sync_url(url: URL) -> URL | None:
    """The same database through a sync driver that is installed; None where there is none."""
    backend = url.get_backend_name()
    for driver in _SYNC_DRIVERS.get(backend, ()):
        if driver == "pysqlite" or importlib.util.find_spec(driver) is not None:
            return url.set(drivername=f"{backend}+{driver}")
    return None


_STATES = frozenset(
    {
        "42804",  # a parameter's type is declared, where the server would have inferred it
        "42883",  # the same, met by an operator
        "42P18",  # a parameter's type cannot be inferred before the value is known
        "55006",  # a server-side cursor is open until the transaction ends
    }
)

_SAYINGS = ("invalid input for query argument", "cannot insert multiple commands")


def async_driver_refused(error: BaseException) -> bool:
    """Whether the async driver may be what stopped a revision, rather than the database."""
    return any(
        type(each).__module__.startswith("asyncpg.")
        and (
            getattr(each, "sqlstate", None) in _STATES
            or any(saying in str(each) for saying in _SAYINGS)
        )
        for each in chain(error)
    )


def sync_way(target: Target, place: Place, way: Way, error: BaseException) -> Way | None:
    """The way by a sync driver, where `error` may come from the async one; None without one."""
    if way.drive != "loop" or target.drive != "auto" or not async_driver_refused(error):
        return None
    url = None if place.in_place else _sync_url(place.url)
    return Way("thread", "nothing", url) if url is not None else None


def advice(target: Target, error: BaseException) -> str:
    """What to do about a revision that the async driver refused; empty for any other error."""
    if not async_driver_refused(error):
        return ""
    if target.drive == "loop":
        remedy = "leave drive='loop' out, so that env.py runs with a sync driver in a thread"
    else:
        remedy = (
            "install the driver it was written for (psycopg), and it runs with that in a thread"
        )
    return f"asyncpg may be what refuses it: {remedy}; or repair the revision"
