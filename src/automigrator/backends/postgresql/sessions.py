"""Migrations' connections to PostgreSQL, as the contract asks for them."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from sqlalchemy.engine import Connection

from automigrator.backends.contract.sessions import Sessions
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import session
from automigrator.backends.postgresql.looks import Sights


class ServerSessions(Sessions):
    """Connections of asyncpg and psycopg; their transactions are real."""

    def __init__(self, sights: Sights) -> None:
        self._sights = sights

    def identity(self, connection: Connection) -> Hashable:
        return session.identity(connection)

    def state(self, connection: Connection) -> Hashable:
        return session.state(connection)

    def adopt(self, connection: Connection, *, to_write: bool = True) -> Callable[[], None]:
        if self._sights.access.shares(connection):
            return session.unaltered(connection, to_write=to_write)
        return lambda: None

    def limit_statements(self, connection: Connection, seconds: float) -> Callable[[], None] | None:
        return session.limited(connection, seconds)

    def interrupter(self, connection: Connection) -> Callable[[], None] | None:
        return session.interrupter(connection)

    def resolve(self, connection: Connection, table: VersionTable) -> VersionTable:
        return session.resolve(connection, table, self._sights.search_path)
