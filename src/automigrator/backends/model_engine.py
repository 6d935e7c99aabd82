"""The application's engine as a model: what it would connect with now, and an engine like it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from automigrator.errors import RefusedError

_CREATOR = "async_creator_fn"
"""The argument of SQLAlchemy's async drivers for what connects instead of them."""


class _Recipe(Exception):
    """Carries the final connect arguments out of the application's own creator."""

    def __init__(self, cargs: list[Any], cparams: dict[str, Any]) -> None:
        super().__init__()  # without them: SQLAlchemy's pool logs it, and a password is among them
        self.arguments = cargs, cparams


def engine_like(given: AsyncEngine) -> AsyncEngine:
    """An engine with the listeners and options of another one, and an empty pool of its own."""
    source = given.sync_engine
    # recreate() is a fresh, empty pool with the same creator, arguments and listeners
    made = create_async_engine(
        given.url, pool=source.pool.recreate(), hide_parameters=source.hide_parameters
    )
    made.sync_engine.dispatch._update(source.dispatch, only_propagate=False)
    made.sync_engine.update_execution_options(**source.get_execution_options())
    return made


def connect_as_given(
    given: AsyncEngine, dialect: Any, record: Any, cargs: list[Any], cparams: dict[str, Any]
) -> None:
    """Connect to another database with what the application's engine would use now.

    Raises RefusedError where that is a creator: what it proves of the server nobody can say.
    """
    recipe = recipe_of(given)
    if recipe is None or _CREATOR in recipe[1]:
        if dialect.name == "sqlite":
            return  # no server is reached, and no password is given away
        raise RefusedError(
            "the application's engine connects with a creator of its own, which leads to its own "
            "database alone; nothing was changed. Give migrations a URL: Target(migrate_with=...)"
        )
    names = ("database", "dbname")  # asyncpg's word for it, and psycopg's
    own = {name: cparams[name] for name in names if name in cparams}
    cparams.clear()
    cparams.update({**recipe[1], **own})


def arguments_of(engine: AsyncEngine | Engine) -> Mapping[str, Any] | None:
    """Return the arguments with which an engine would connect now; None for a creator's."""
    recipe = recipe_of(engine)
    return as_arguments(*recipe) if recipe is not None else None


def as_arguments(cargs: Sequence[Any], cparams: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A driver's arguments by their names; None where a creator is one of them."""
    if _CREATOR in cparams:
        return None
    return {"conninfo": cargs[0], **cparams} if cargs and cargs[0] else cparams


def recipe_of(engine: AsyncEngine | Engine) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the arguments with which an engine would connect now, listeners included."""

    thread = threading.get_ident()

    def capture(dialect: Any, record: Any, cargs: list[Any], cparams: dict[str, Any]) -> None:
        if threading.get_ident() == thread:  # others may connect meanwhile
            raise _Recipe(list(cargs), dict(cparams))

    source = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    pool = source.pool.recreate()
    event.listen(source, "do_connect", capture)
    try:
        pool.connect().close()
    except _Recipe as recipe:
        return recipe.arguments
    finally:
        event.remove(source, "do_connect", capture)
        pool.dispose()  # what a creator has made
    return None  # a creator= of the application's: only its own database can be reached that way
