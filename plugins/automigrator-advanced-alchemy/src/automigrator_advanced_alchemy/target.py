"""The target that a configuration of advanced-alchemy describes."""

from __future__ import annotations

from typing import Any

from advanced_alchemy.alembic.commands import AlembicCommands
from advanced_alchemy.config import SQLAlchemyAsyncConfig, SQLAlchemySyncConfig
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator import ConfigurationError, Target


def target_of(config: SQLAlchemyAsyncConfig | SQLAlchemySyncConfig, **options: Any) -> Target:
    """Describe the database and the history of advanced-alchemy's configuration as a target.

    env.py gets the very Config that `alchemy upgrade` and `litestar database upgrade` give it.
    `config`: as the application has it; one of FastAPI, Starlette, Litestar or Flask, too.
    `options`: those of `Target`; default: its `name` is the `bind_key`, where there is one.
    Raises ConfigurationError.
    """
    if config.bind_key:
        options.setdefault("name", config.bind_key)
    database = options.pop("database", None)
    if database is None:
        database = _database(config)
    return Target(database, AlembicCommands(config).config, **options)


def _database(config: SQLAlchemyAsyncConfig | SQLAlchemySyncConfig) -> AsyncEngine | URL:
    """The configuration's engine, or the URL of a synchronous one. Raises ConfigurationError."""
    engine = config.get_engine()
    if isinstance(engine, AsyncEngine):
        return engine
    unseen = sorted(config.engine_config_dict.keys() & {"connect_args", "creator", "module"})
    if unseen and engine.dialect.name != "sqlite":
        raise ConfigurationError(
            f"the synchronous engine has {' and '.join(unseen)}, which its URL does not tell; "
            "the lock needs a connection as secure as the application's: "
            "pass target_of(config, database=) an AsyncEngine that has the same"
        )
    return engine.url
