"""Checked by mypy and never run: what frameworks take, and what `wrap` keeps of a lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import assert_type

from litestar import Litestar

from automigrator import Migrator, Target

migrator = Migrator(Target("sqlite:///app.db", "alembic.ini"))


@asynccontextmanager
async def lifespan(app: Litestar, *, debug: bool = False) -> AsyncIterator[dict[str, int]]:
    yield {"answer": 42}


Litestar(lifespan=[migrator.lifespan])
Litestar(lifespan=[migrator.wrap(lifespan)])


async def used(app: Litestar) -> None:
    async with migrator.lifespan():
        pass
    async with migrator.wrap(lifespan)(app, debug=True) as state:
        assert_type(state, dict[str, int])
    migrator.wrap(lifespan)("no application")  # type: ignore[arg-type]
