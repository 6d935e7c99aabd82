"""Engines that an Alembic configuration carries, which lead to the application's database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Engine, NullPool, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from automigrator.backends.model_engine import with_engines
from pytest_automigrator import drivers


def led_to(url: URL, config: Any) -> Any:
    """A copy of a configuration whose engines, and their URLs as text, are those of `url`.

    `config`: as `Target` takes it; what carries no engine is returned as it is.
    """
    return with_engines(config, lambda engine: _like(engine, url))


def _like(engine: Engine | AsyncEngine, url: URL) -> Engine | AsyncEngine:
    """An engine of the same kind, sync or async, that keeps no connection."""
    named = engine.url.drivername
    if isinstance(engine, Engine):
        return create_engine(drivers.sync(url, named), poolclass=NullPool)
    same = engine.url.get_backend_name() == url.get_backend_name()
    led = url.set(drivername=named) if same else drivers.asynchronous(url)
    return create_async_engine(led, poolclass=NullPool)
