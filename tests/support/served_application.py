"""One application that migrates at its start, for each of the servers that may serve it.

`AUTOMIGRATOR_URL` and `AUTOMIGRATOR_CONFIG` name the database and its alembic.ini. Run as a script
it migrates and ends; with a port as its argument aiohttp serves it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from automigrator import Migrator, Target

migrator = Migrator(
    Target(os.environ["AUTOMIGRATOR_URL"], os.environ["AUTOMIGRATOR_CONFIG"], name="app"),
    mode="migrate",
)

with suppress(ImportError):
    from starlette.applications import Starlette

    asgi = Starlette(lifespan=migrator.lifespan)

with suppress(ImportError):
    from quart import Quart

    quart = Quart("application")

    @quart.before_serving
    async def migrate_before_serving() -> None:
        await migrator.run()


with suppress(ImportError):
    from sanic import Sanic

    sanic = Sanic("application")

    @sanic.before_server_start
    async def migrate_before_start(app: Any) -> None:
        await migrator.run()

    @sanic.get("/")
    async def index(request: Any) -> Any:
        from sanic import empty

        return empty()


def aiohttp_application() -> Any:
    from aiohttp import web

    async def migrated(app: web.Application) -> AsyncIterator[None]:
        await migrator.run()
        yield

    app = web.Application()
    app.cleanup_ctx.append(migrated)
    return app


def main() -> None:
    if sys.argv[1:]:
        from aiohttp import web

        web.run_app(aiohttp_application(), host="127.0.0.1", port=int(sys.argv[1]))
    else:
        asyncio.run(migrator.run())


if __name__ == "__main__":
    main()
