"""Stands in for the dialects that a real database has in SQLAlchemy and in Alembic.

Underneath it is SQLite, so that the example runs everywhere.
"""

from __future__ import annotations

from alembic.ddl.sqlite import SQLiteImpl
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite


class ExampleDialect(SQLiteDialect_aiosqlite):
    """What a URL that begins with `exampledb+aiosqlite://` gets of SQLAlchemy."""

    name = "exampledb"
    supports_statement_cache = True


class ExampleImpl(SQLiteImpl):
    """What Alembic knows of it."""

    __dialect__ = "exampledb"
    transactional_ddl = True
