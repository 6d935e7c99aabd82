"""Copies of a database that share its blocks, where server and file system can."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool
from support.postgres_server import Server, newest_on
from support.small_disk import cloning_disk

from automigrator.backends.postgresql import databases
from automigrator.backends.postgresql.sql import server_version

METHOD = "select current_setting('file_copy_method', true)"


@asynccontextmanager
async def maintenance(server: Server, user: str | None = None) -> AsyncIterator[AsyncConnection]:
    url = server.admin.set(username=user or server.admin.username)
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def copied(admin: AsyncConnection, template: str) -> str | None:
    """Copy a database, and return how the session copies files then."""
    name = f"{template}_copy"
    assert await databases.create(admin, name, template=template)
    found: str | None = await admin.scalar(text(METHOD))
    return found


async def test_nothing_is_set_where_the_server_does_not_know_it(
    postgres_server: Server, live: str
) -> None:
    async with maintenance(postgres_server) as admin:
        knows = server_version(admin) >= (18,)
        assert await copied(admin, live) in (("clone", "copy") if knows else (None,))


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    with cloning_disk(request.param, 1024) as place:
        yield place


@pytest.fixture(scope="module")
def server(disk: Path) -> Iterator[Server]:
    with newest_on(disk, 18) as server:
        yield server


@pytest.fixture
def template(server: Server) -> Iterator[str]:
    server.create("am_filled")
    fill = "create table filling as select repeat('x', 1000) from generate_series(1, 60000)"
    server.execute(fill, database="am_filled")
    yield "am_filled"
    server.drop_all("am_filled")


@pytest.mark.long
class TestServersThatKnowIt:
    async def test_a_copy_takes_no_room(self, server: Server, template: str, disk: Path) -> None:
        server.execute("checkpoint")
        before = used(disk)
        async with maintenance(server) as admin:
            assert await copied(admin, template) == "clone"
        assert used(disk) - before < 20 << 20  # of 70
        count = "select count(*) from filling"
        assert server.execute(count, database=f"{template}_copy")[0][0] == 60000

    async def test_what_somebody_has_set_stays(self, server: Server, template: str) -> None:
        server.execute("create role careful superuser login")
        server.execute("alter role careful set file_copy_method = 'copy'")
        try:
            async with maintenance(server, "careful") as admin:
                assert await copied(admin, template) == "copy"
        finally:
            server.drop(f"{template}_copy")
            server.execute("drop role careful")

    async def test_a_kernel_that_refuses_costs_a_copy_and_no_failure(
        self, server: Server, template: str
    ) -> None:
        async with maintenance(server) as admin:
            with refusing(await admin.scalar(text("select pg_backend_pid()"))):
                assert await copied(admin, template) == "copy"


def used(disk: Path) -> int:
    os.sync()
    return shutil.disk_usage(disk).used


@contextmanager
def refusing(pid: int) -> Iterator[None]:
    """A process whose kernel does not know how to make a clone."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    fault = "copy_file_range:error=EOPNOTSUPP"
    command = [strace, "-o", os.devnull, "-e", f"inject={fault}", "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracing:
        assert tracing.stderr is not None
        said = tracing.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"this user may not trace: {said}")
        try:
            yield
        finally:
            tracing.terminate()
