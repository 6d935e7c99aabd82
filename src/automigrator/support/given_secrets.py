"""The secrets that an engine was given besides its URL."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.support import urls

_SHORTEST_SEEN = 8
"""Characters of a secret in a variable that the function only sees."""


def given_to(engine: AsyncEngine) -> Iterator[str]:
    """The secrets that `connect_args` or the engine's own creator hold.

    SQLAlchemy keeps either in the function that connects.
    """
    with suppress(RecursionError):  # of a variable that holds itself
        yield from _held_by(getattr(engine.sync_engine.pool, "_creator", None), 3)


def _held_by(function: object, levels: int) -> Iterator[str]:
    """The secrets that a function is given, or can see in variables that are named like one."""
    given: Mapping[str, Any] = {}
    seen: Mapping[str, Any] = {}
    if isinstance(function, partial):
        given, function = function.keywords, function.func
    if levels and inspect.isfunction(function):
        with suppress(ValueError):  # a variable that has no value yet
            found = inspect.getclosurevars(function)
            seen = {**found.globals, **found.nonlocals}
    given = {**given, **seen.get("cparams", {})}
    yield from urls.secrets_in(given)
    # a short one may be a word of every message, and no secret at all
    yield from (each for each in urls.secrets_in(seen) if len(each) >= _SHORTEST_SEEN)
    for each in (*given.values(), *seen.values()):
        if inspect.isfunction(each) or isinstance(each, partial):
            yield from _held_by(each, levels - 1)
