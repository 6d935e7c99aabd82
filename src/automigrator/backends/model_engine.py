"""The application's engine as a model: what it would connect with now, and an engine like it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import URL, Engine, NullPool, create_engine, event
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
    _take_after(made.sync_engine, source)
    return made


def engine_beside(given: AsyncEngine | Engine, database: str) -> AsyncEngine | Engine:
    """An engine like another one that leads to another database of its server.

    It has the arguments, options and listeners of `given`, and keeps no connection. `database`: as
    a URL names it. Connecting raises RefusedError where a creator makes the connections of `given`.
    """
    url = given.url.set(database=database)
    made = (
        create_async_engine(url, poolclass=NullPool)
        if isinstance(given, AsyncEngine)
        else create_engine(url, poolclass=NullPool)
    )
    source, led = _sync(given), _sync(made)
    options = {name: each for name, each in vars(source.dialect).items() if name != "dispatch"}
    vars(led.dialect).update(options)  # how JSON is written, say
    event.listen(led, "do_connect", partial(connect_as_given, given))
    event.listen(led, "connect", lambda *connected: source.pool.dispatch.connect(*connected))
    led.hide_parameters = source.hide_parameters
    _take_after(led, source)
    return made


def _take_after(made: Engine, source: Engine) -> None:
    """Give an engine the listeners and the execution options of another one."""
    made.dispatch._update(source.dispatch, only_propagate=False)
    made._has_events = source._has_events  # else a connection asks no listener
    made.update_execution_options(**source.get_execution_options())


def config_beside(config: Any, own: URL, database: str) -> Any:
    """A copy of a configuration whose engines to `own` lead to another database of its server."""

    def led(engine: AsyncEngine | Engine) -> AsyncEngine | Engine:
        return engine_beside(engine, database) if _where(engine.url) == _where(own) else engine

    return with_engines(config, led)


def with_engines(config: Any, make: Callable[[AsyncEngine | Engine], AsyncEngine | Engine]) -> Any:
    """A copy of a configuration with other engines, and with their URLs where it has those as text.

    An env.py as advanced-alchemy's takes its engine from its Config, whatever URL that has.
    `config`: as `Target` takes it; what carries no engine is returned as it is.
    `make`: what is to be there instead of an engine.
    """
    carried = {
        name: each
        for name, each in getattr(config, "__dict__", {}).items()
        if isinstance(each, Engine | AsyncEngine)
    }
    if not carried:
        return config
    changed = copy.copy(config)
    for name, engine in carried.items():
        made = vars(changed)[name] = make(engine)
        for other, text in vars(config).items():
            if isinstance(text, str) and text in _texts(engine):
                vars(changed)[other] = made.url.render_as_string(hide_password=False)
    return changed


def _where(url: URL) -> tuple[object, ...]:
    return url.get_backend_name(), url.host, url.port, url.database


def _texts(engine: AsyncEngine | Engine) -> set[str]:
    return {engine.url.render_as_string(hide_password=hidden) for hidden in (True, False)}


def _sync(engine: AsyncEngine | Engine) -> Engine:
    return engine.sync_engine if isinstance(engine, AsyncEngine) else engine


def connect_as_given(
    given: AsyncEngine | Engine,
    dialect: Any,
    record: Any,
    cargs: list[Any],
    cparams: dict[str, Any],
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

    source = _sync(engine)
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
