"""Where a case gets its databases from, so that none of them is left when it is over."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator.support import urls

CANARY = "canary-5f1d0e"

"""A secret: what a strategy or a backend tells must not repeat it."""


class Databases(Protocol):
    """Fresh databases of one kind, for one case."""

    def url(self, name: str = "app") -> URL:
        """The URL, with an async driver, of a database that does not exist; the same per name."""

    async def places(self) -> frozenset[str]:
        """Every database there is by now, as a URL's `database`: copies and old data as well."""

    def close(self) -> None:
        """Delete them all."""


class SQLiteFiles:
    """`Databases` as files in a folder, which whoever made it deletes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def url(self, name: str = "app") -> URL:
        return URL.create("sqlite+aiosqlite", database=str(self._folder / f"{name}.db"))

    async def places(self) -> frozenset[str]:
        sidecars = ("-wal", "-shm", "-journal")
        files = [path for path in self._folder.rglob("*") if not path.name.endswith(sidecars)]
        return frozenset(str(path) for path in files if path.is_file() and _is_sqlite(path))

    def close(self) -> None:
        """Nothing: the folder goes."""


class PostgreSQLServer:
    """`Databases` on a server; the role of `dsn` may create databases, its own one is kept."""

    def __init__(self, dsn: str | URL) -> None:
        self._admin = urls.with_async_driver(urls.parse(dsn))
        self._prefix = f"am_{uuid.uuid4().hex[:10]}"

    def url(self, name: str = "app") -> URL:
        # a server that asks for none takes any password
        password = self._admin.password or CANARY
        return self._admin.set(database=f"{self._prefix}_{name}", password=password)

    async def places(self) -> frozenset[str]:
        rows = await self._execute(
            "select datname::text from pg_database where starts_with(datname, :prefix)",
            prefix=self._prefix,
        )
        return frozenset(row[0] for row in rows)

    def close(self) -> None:
        asyncio.run(self._drop_all())

    async def _drop_all(self) -> None:
        for name in await self.places():
            await self._execute(f'drop database if exists "{name}" with (force)')

    async def _execute(self, statement: str, **values: Any) -> list[Any]:
        engine = create_async_engine(self._admin, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            result = await connection.execute(text(statement), values)
            rows = list(result.all()) if result.returns_rows else []
        await engine.dispose()
        return rows


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\x00"
