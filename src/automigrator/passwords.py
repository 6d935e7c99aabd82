"""Every password that a target is reached with: in its URLs, and in what its engines are given."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.target import Target
from automigrator.urls import is_secret, secrets_of


def passwords_of(target: Target) -> tuple[str, ...]:
    """As they are given; texts are freed of them by `scrubbed`."""
    found: dict[str, None] = {}
    for database in (target.database, target.migrate_with):
        if isinstance(database, AsyncEngine):
            found |= dict.fromkeys([*secrets_of(database.url), *_given_to(database)])
        elif isinstance(database, URL):
            found |= dict.fromkeys(secrets_of(database))
    return tuple(found)


def _given_to(engine: AsyncEngine) -> Iterator[str]:
    """What `connect_args` holds, which SQLAlchemy keeps in the function that connects."""
    creator = getattr(engine.sync_engine.pool, "_creator", None)
    if not inspect.isfunction(creator):
        return
    arguments = inspect.getclosurevars(creator).nonlocals.get("cparams")
    if isinstance(arguments, Mapping):
        for name, value in arguments.items():
            if is_secret(name) and isinstance(value, str):
                yield value
