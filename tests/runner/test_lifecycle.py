"""A web application migrates before it serves, and a failing migration keeps it from starting."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from support.alembic_projects import heads, linear, revision

from automigrator import ConfigurationError, MigrationError, Migrator, Target

pytestmark = pytest.mark.long("postgresql")

Make = Callable[..., Target]


def failing(folder: Path) -> None:
    linear(folder, 2)
    revision(folder, "r3", "r2", upgrade='raise LookupError("no luck")')


@asynccontextmanager
async def served(application: FastAPI) -> AsyncIterator[int]:
    """The port on which a real server has started the application."""
    config = uvicorn.Config(application, port=0, lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started and not serving.done():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)
        yield listening.getsockname()[1] if server.started else 0
        server.should_exit = True
        await serving


async def get(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode().rpartition("\r\n\r\n")[2]


async def test_a_server_serves_a_migrated_database(make_target: Make, database_url: str) -> None:
    application = FastAPI(lifespan=Migrator(make_target(), mode="migrate").lifespan)

    @application.get("/")
    def at() -> list[str]:
        return sorted(heads(database_url))

    for _ in ("the first start", "the second"):
        async with served(application) as port:
            assert await get(port) == '["r3"]'


async def test_an_application_does_not_start_on_a_database_that_cannot_be_migrated(
    make_target: Make, database_url: str
) -> None:
    application = FastAPI(lifespan=Migrator(make_target(failing), mode="migrate").lifespan)

    with pytest.raises(MigrationError, match="no luck"):
        async with application.router.lifespan_context(application):
            pass


async def test_a_wrapped_lifespan_starts_on_a_migrated_database_and_keeps_its_state(
    make_target: Make, database_url: str
) -> None:
    seen: list[Any] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        seen.append(("starts", heads(database_url)))
        yield {"kept": "state"}
        seen.append(("stops", app))

    application = FastAPI(lifespan=Migrator(make_target(), mode="migrate").wrap(lifespan))
    async with application.router.lifespan_context(application) as state:
        assert state == {"kept": "state"}
        assert seen == [("starts", {"r3"})]
    assert seen[1] == ("stops", application)


async def test_a_wrapped_lifespan_does_not_start_when_the_migration_fails(
    make_target: Make, sqlite_url: str
) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise AssertionError("started")
        yield

    migrator = Migrator(make_target(failing, database=sqlite_url), mode="migrate")

    with pytest.raises(MigrationError, match="no luck"):
        async with migrator.wrap(lifespan)(FastAPI()):
            pass


async def test_a_lifespan_needs_no_application(make_target: Make, sqlite_url: str) -> None:
    async with Migrator(make_target(database=sqlite_url), mode="migrate").lifespan():
        assert heads(sqlite_url) == {"r3"}


async def test_a_wrapped_lifespan_is_called_with_what_the_framework_passes(
    make_target: Make, sqlite_url: str
) -> None:
    @asynccontextmanager
    async def alone() -> AsyncIterator[str]:
        yield "no argument"

    @asynccontextmanager
    async def asking(broker: str, *, debug: bool) -> AsyncIterator[tuple[str, bool]]:
        yield broker, debug

    migrator = Migrator(make_target(database=sqlite_url), mode="migrate")

    async with migrator.wrap(alone)() as state:
        assert state == "no argument"
    # FastStream looks at the parameters to know what to pass
    assert inspect.signature(migrator.wrap(asking)) == inspect.signature(asking)
    async with migrator.wrap(asking)("redis", debug=True) as passed:
        assert passed == ("redis", True)


async def test_an_error_of_the_application_passes_through(
    make_target: Make, sqlite_url: str
) -> None:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield

    migrator = Migrator(make_target(database=sqlite_url), mode="migrate")

    for each in (migrator.lifespan, migrator.wrap(lifespan)):
        with pytest.raises(ZeroDivisionError):
            async with each(FastAPI()):
                raise ZeroDivisionError


@pytest.mark.long("sqlite-generic", "ignores_connection")
@pytest.mark.parametrize("kind", ["generic", "async", "ignores_connection"])
def test_code_without_a_loop_can_migrate(kind: str, make_target: Make, database_url: str) -> None:
    migrator = Migrator(make_target(kind=kind), mode="migrate")

    assert migrator.run_sync().outcome == "migrated"
    assert heads(database_url) == {"r3"}
    assert migrator.run_sync().outcome == "current"


@pytest.mark.long
def test_code_without_a_loop_gets_the_same_error(make_target: Make, sqlite_url: str) -> None:
    migrator = Migrator(make_target(failing, database=sqlite_url), mode="migrate")

    with pytest.raises(MigrationError, match="no luck"):
        migrator.run_sync()


async def test_code_with_a_loop_is_told_to_await(make_target: Make, sqlite_url: str) -> None:
    migrator = Migrator(make_target(database=sqlite_url), mode="migrate")

    with pytest.raises(ConfigurationError, match=r"await run\(\)"):
        migrator.run_sync()
