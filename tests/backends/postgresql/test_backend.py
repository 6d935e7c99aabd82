"""What a migration leaves to the application's own pool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator.backends.access import Access
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.target import Target


async def test_the_applications_pool_forgets_its_plans(
    postgres_url: str, do: Callable[..., Any]
) -> None:
    do("create table t as select 1 as a")
    app = create_async_engine(postgres_url, pool_size=1)

    async def read() -> int:
        async with app.connect() as connection:
            return len((await connection.execute(text("select * from t"))).one())

    assert await read() == 1
    do("alter table t add b int")
    await PostgreSQL(Access(Target(app, Path(__file__).parent)), None).refresh()
    assert await read() == 2
    await app.dispose()
