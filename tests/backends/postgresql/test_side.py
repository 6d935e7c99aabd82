"""A copy on the side of a PostgreSQL database: by template, by pg_dump, or refused; then gone."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from support.checksums import checksums
from support.postgres_backends import Do, made, silent
from support.postgres_server import Server
from support.rich_database import RICH

from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.errors import RefusedError
from automigrator.testing.processes import Process

pytestmark = pytest.mark.long("[template]", "session[killed", "disconnected_for_a_template")

TABLES = [VersionTable()]
Tools = Callable[..., Path]

needs_programs = pytest.mark.skipif(
    shutil.which("pg_dump") is None, reason="no PostgreSQL client programs on this machine"
)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """Somebody else, a replica of the application say."""
    settings = {"application_name": "the replica"}
    other = await asyncpg.connect(url.replace("+asyncpg", ""), server_settings=settings)
    try:
        yield other
    finally:
        await other.close()


def beside(server: Server, live: str) -> list[str]:
    return server.databases(f"{live}__automigrator")


def at(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.mark.long
@needs_programs
@pytest.mark.parametrize("how", ["template", "dump"])
async def test_a_copy_holds_all_that_the_target_does_and_is_dropped(
    how: Any, postgres_url: str, postgres_server: Server, live: str, do: Do
) -> None:
    do(*RICH, f"alter database {live} set work_mem to '5MB'")
    before = checksums(postgres_url)
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        async with hold.sides.copy("s1", SnapshotOptions(how=how)) as side:
            assert beside(postgres_server, live) == [side.place]
            copy = at(postgres_url, side.place)
            assert checksums(copy) == before
            shown = postgres_server.execute("show work_mem", database=side.place)
            assert shown[0][0] == "5MB"
        assert beside(postgres_server, live) == []
    assert checksums(postgres_url) == before


@needs_programs
async def test_where_somebody_is_connected_a_dump_is_copied_and_nobody_is_disturbed(
    postgres_url: str, do: Do, caplog: pytest.LogCaptureFixture
) -> None:
    do("create table users (id int)", "insert into users values (7)")
    backend = made(postgres_url)
    with caplog.at_level(logging.INFO, "automigrator"):
        async with connected(postgres_url) as other, other.transaction():
            await other.execute("insert into users values (8)")  # and holds its lock
            async with backend.lock(TABLES, 5, silent) as hold, hold.sides.copy("s1") as side:
                assert await other.fetchval("select count(*) from users") == 2
                async with connected(at(postgres_url, side.place)) as copied:
                    assert await copied.fetchval("select count(*) from users") == 1
    assert "by pg_dump to" in caplog.text


async def test_others_are_disconnected_for_a_template_copy_when_that_is_asked_for(
    postgres_url: str, do: Do
) -> None:
    do("create table users (id int)")
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold, connected(postgres_url) as other:
        with pytest.raises(RefusedError, match="the replica.*disconnect_others=True"):
            async with hold.sides.copy("s1", SnapshotOptions(how="template")):
                pass
        assert await other.fetchval("select 1") == 1
        async with hold.sides.copy("s2", SnapshotOptions(how="template", disconnect_others=True)):
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await other.fetchval("select 1")


@pytest.mark.long
async def test_where_no_copy_can_be_made_both_reasons_are_told(
    postgres_url: str, postgres_server: Server, live: str, tmp_path: Path
) -> None:
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold, connected(postgres_url) as other:
        with pytest.raises(RefusedError) as refused:
            async with hold.sides.copy("s1", SnapshotOptions(binaries=tmp_path)):
                pass
        assert await other.fetchval("select 1") == 1
    for part in ("the replica", "disconnect_others=True", "pg_dump", "nothing was changed"):
        assert part in str(refused.value)
    assert beside(postgres_server, live) == []


@pytest.mark.long("pg_restore")
@needs_programs
@pytest.mark.parametrize("broken", ["pg_dump", "pg_restore"])
async def test_a_program_that_fails_is_quoted_and_what_it_made_is_dropped(
    broken: str, postgres_url: str, postgres_server: Server, live: str, do: Do, tools: Tools
) -> None:
    do(*RICH[:2], "create table bulk as select repeat('x', 900) from generate_series(1, 2000)")
    fails = '[ "$1" = --version ] || { echo "$0: error: no more of this" >&2; exit 1; }'
    backend = made(postgres_url)
    folder = tools(**{broken: fails})
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match=f"{broken} failed.*no more of this"):
            async with hold.sides.copy("s1", SnapshotOptions(how="dump", binaries=folder)):
                pass
    assert beside(postgres_server, live) == []


@pytest.fixture
def role(postgres_server: Server, live: str) -> Iterator[str]:
    """The owner of the database, who may create no other."""
    name = f"{live}_role"
    postgres_server.execute(f"create role {name} login")
    postgres_server.execute(f"alter database {live} owner to {name}")
    yield name
    postgres_server.drop_all(live)
    postgres_server.execute(f"drop role {name}")


async def test_a_role_that_may_create_no_database_is_told_before_anybody_is_disconnected(
    postgres_url: str, role: str
) -> None:
    backend = made(make_url(postgres_url).set(username=role))
    async with backend.lock(TABLES, 5, silent) as hold, connected(postgres_url) as other:
        with pytest.raises(RefusedError, match="CREATEDB"):
            async with hold.sides.copy("s1", SnapshotOptions(disconnect_others=True)):
                pass
        assert await other.fetchval("select 1") == 1


async def test_without_a_maintenance_database_it_is_refused(postgres_url: str) -> None:
    backend = made(postgres_url, "no_such_database")
    async with backend.lock(TABLES, 5, silent) as hold:
        with pytest.raises(RefusedError, match="maintenance_database="):
            async with hold.sides.copy("s1"):
                pass


STOPS = """
[ "$1" = --version ] || {{
    touch {reached}
    while [ -e {slow} ]; do sleep 0.1; done
}}
"""


# pg_dump holds locks for as long as it is connected
LOCKED = "select count(*) from pg_locks where relation = 'bulk'::regclass"


@needs_programs
@pytest.mark.parametrize("end", ["killed", "cancelled"])
async def test_a_process_that_ends_in_the_middle_of_a_dump_leaves_no_copy_and_no_session(
    end: str,
    postgres_url: str,
    postgres_server: Server,
    live: str,
    do: Do,
    tmp_path: Path,
    tools: Tools,
) -> None:
    do(*RICH[:2], "create table bulk as select repeat('x', 900) from generate_series(1, 2000)")
    reached, slow = tmp_path / "reached", tmp_path / "slow"
    slow.touch()
    folder = tools(pg_restore=STOPS.format(reached=reached, slow=slow))
    backend = made(postgres_url)
    try:
        if end == "killed":
            process = Process(_copies, postgres_url, folder)
            await until(reached)
            async with asyncio.timeout(60):  # pg_dump is slower on a busy machine
                while not do(LOCKED)[0][0]:  # noqa: ASYNC110 - the server does not tell
                    await asyncio.sleep(0.05)
            process.kill()
            process.close()
            assert len(beside(postgres_server, live)) == 1
        else:
            copying = asyncio.ensure_future(_copied(backend, folder))
            await until(reached)
            copying.cancel()
            await asyncio.wait([copying])
            assert copying.cancelled() and beside(postgres_server, live) == []
        async with backend.lock(TABLES, 30, silent) as hold:
            await hold.recover()
            assert beside(postgres_server, live) == []
            async with asyncio.timeout(10):  # it ends when it finds that nobody reads any more
                while do(LOCKED)[0][0]:  # noqa: ASYNC110 - the server does not tell
                    await asyncio.sleep(0.05)
    finally:
        slow.unlink()


async def test_a_copy_that_is_cancelled_while_it_waits_for_others_is_not_begun(
    postgres_url: str, postgres_server: Server, live: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "automigrator")
    backend = made(postgres_url)
    async with backend.lock(TABLES, 5, silent) as hold:
        async with connected(postgres_url):
            copying = asyncio.ensure_future(
                _entered(hold.sides.copy("s1", SnapshotOptions(how="template")))
            )
            await asyncio.sleep(0.3)  # of the second in which sessions of ours may leave
            copying.cancel()
        await asyncio.wait([copying])  # nobody is connected any more
        assert copying.cancelled() and beside(postgres_server, live) == []
    assert "was copied" not in caplog.text


async def until(reached: Path) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(reached.exists):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.02)


async def _entered(copy: AbstractAsyncContextManager[Any]) -> None:
    async with copy:
        raise AssertionError("it was to be ended before that")


async def _copied(backend: PostgreSQL, folder: Path) -> None:
    async with backend.lock(TABLES, 5, silent) as hold:
        await _entered(hold.sides.copy("s1", SnapshotOptions(how="dump", binaries=folder)))


def _copies(tell: Callable[[Any], None], url: str, folder: Path) -> None:
    """In a process of its own."""
    asyncio.run(_copied(made(url), folder))
