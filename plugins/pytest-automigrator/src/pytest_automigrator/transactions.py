"""An engine whose transactions can be rolled back as a whole, on SQLite, too."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Engine, create_engine, event

from pytest_automigrator import drivers


def engine_for(url: URL, named: str) -> Engine:
    """A sync engine; sqlite3 begins no transaction of its own, which would commit at DDL."""
    engine = create_engine(drivers.sync(url, named))
    if engine.dialect.name != "sqlite":
        return engine

    @event.listens_for(engine, "connect")
    def left_alone(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine
