"""Sends many statements to the server at once, as one query of the simple protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from automigrator.backends.contract.sessions import Sessions


class ScriptedSessions(Sessions):
    """Connections of asyncpg and psycopg: both send a text without parameters as it is."""

    def names_in(self, connection: Connection) -> str:
        found = connection.exec_driver_sql("select pg_catalog.current_schemas(false)::text")
        return str(found.scalar_one())

    @property
    def sends_scripts(self) -> bool:
        return True

    def run_script(self, connection: Connection, statements: Sequence[str]) -> None:
        # a comment may stand at a statement's end
        script = "\n;\n".join(statements)
        adapted: Any = connection.connection.dbapi_connection
        try:
            if connection.dialect.is_async:
                adapted.run_async(lambda driver: driver.execute(script))
            else:
                adapted.execute(script)
        except Exception as error:
            if not hasattr(error, "sqlstate") and not isinstance(error, OSError):
                raise
            statement = statements[0] if len(statements) == 1 else None
            lost = bool(getattr(adapted, "is_closed", bool)())
            raise DBAPIError(statement or "", None, error, connection_invalidated=lost) from error
