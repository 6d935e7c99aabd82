"""Engines that an Alembic configuration carries, which lead to the application's database."""

from __future__ import annotations

import copy
from typing import Any

from sqlalchemy import URL, Engine, NullPool, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pytest_automigrator import drivers


def led_to(url: URL, config: Any) -> Any:
    """A copy of a configuration whose engines, and their URLs as text, are those of `url`.

    An env.py as advanced-alchemy's takes its engine from its Config, whatever URL that has.
    `config`: as `Target` takes it; what carries no engine is returned as it is.
    """
    carried = {
        name: each
        for name, each in getattr(config, "__dict__", {}).items()
        if isinstance(each, Engine | AsyncEngine)
    }
    if not carried:
        return config
    led = copy.copy(config)
    for name, engine in carried.items():
        made = _like(engine, url)
        vars(led)[name] = made
        for other, text in vars(config).items():
            if isinstance(text, str) and text in _texts(engine):
                vars(led)[other] = made.url.render_as_string(hide_password=False)
    return led


def _texts(engine: Engine | AsyncEngine) -> set[str]:
    return {engine.url.render_as_string(hide_password=hidden) for hidden in (True, False)}


def _like(engine: Engine | AsyncEngine, url: URL) -> Engine | AsyncEngine:
    """An engine of the same kind, sync or async, that keeps no connection."""
    named = engine.url.drivername
    if isinstance(engine, Engine):
        return create_engine(drivers.sync(url, named), poolclass=NullPool)
    same = engine.url.get_backend_name() == url.get_backend_name()
    led = url.set(drivername=named) if same else drivers.asynchronous(url)
    return create_async_engine(led, poolclass=NullPool)
