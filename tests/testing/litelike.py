"""Somebody else's distribution for a database of their own, which is SQLite's underneath."""

from __future__ import annotations

from alembic.ddl.sqlite import SQLiteImpl
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

from automigrator.backends.access import Access
from automigrator.backends.sqlite.backend import SQLite


class LiteLikeDialect(SQLiteDialect_aiosqlite):
    name = "litelike"
    supports_statement_cache = True


class LiteLikeImpl(SQLiteImpl):
    __dialect__ = "litelike"


class LiteLike(SQLite):
    name = "litelike"

    def __init__(self, access: Access, maintenance_database: str | None) -> None:
        super().__init__(access)
