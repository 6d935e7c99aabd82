"""An env.py may run a loop of any kind, and the application may be of any kind, too."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.alembic_projects import heads, project, tables

from automigrator import ConfigurationError, Migrator, Target

pytestmark = pytest.mark.long("kind[postgresql", "anyio[postgresql")

RUN = "asyncio.run(run_async_migrations())"

LIMIT_S = 60

NEW_LOOP = """loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(run_async_migrations())
    finally:
        loop.close()"""

THREAD = """from threading import Thread
    thread = Thread(target=asyncio.run, args=(run_async_migrations(),))
    thread.start()
    thread.join()"""

POOL = """from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, run_async_migrations()).result()"""

ANYIO_THREAD = """import anyio, anyio.to_thread

    async def outside():
        await anyio.to_thread.run_sync(asyncio.run, run_async_migrations())

    anyio.run(outside)"""

ANYIO_SYNC = """import anyio, anyio.from_thread, anyio.to_thread

    async def outside():
        await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(run_async_migrations))

    anyio.run(outside)"""

LOOPS = {
    "asyncio.Runner": "with asyncio.Runner() as runner: runner.run(run_async_migrations())",
    "a new loop": NEW_LOOP,
    "the current loop": "asyncio.get_event_loop().run_until_complete(run_async_migrations())",
    "a thread": THREAD,
    "a pool of threads": POOL,
    "anyio": "import anyio; anyio.run(run_async_migrations)",
    "anyio on uvloop": "import anyio\n"
    "    anyio.run(run_async_migrations, backend_options={'use_uvloop': True})",
    "a thread of anyio": ANYIO_THREAD,
    "back from a thread of anyio": ANYIO_SYNC,
    "uvloop": "import uvloop; uvloop.run(run_async_migrations())",
    "a new uvloop": NEW_LOOP.replace("asyncio.new", "uvloop.new").replace(
        "loop =", "import uvloop\n    loop =", 1
    ),
    "a policy of uvloop": "import uvloop\n"
    "    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:\n"
    "        runner.run(run_async_migrations())",
}


def target_of(url: str, root: Path, body: str = RUN) -> Target:
    made = project(root, "async", url)
    env = made.versions.parent / "env.py"
    text = env.read_text("utf-8")
    assert text.count(f"    {RUN}") == 1
    env.write_text(text.replace(RUN, body), "utf-8")
    return Target(url, made.config)


@pytest.mark.long(
    "a new loop",
    "pool of threads",
    "anyio on uvloop",
    "[sqlite-a thread]",
    "a new uvloop",
    "a thread of anyio]",
    "the current loop",
    "policy of",
)
@pytest.mark.parametrize("body", LOOPS.values(), ids=LOOPS)
async def test_an_env_may_run_a_loop_of_any_kind(
    body: str, database_url: str, tmp_path: Path
) -> None:
    if "uvloop" in body:
        pytest.importorskip("uvloop")
    if "get_event_loop()" in body and sys.version_info >= (3, 14):
        pytest.skip("no thread has a current loop there")
    target = target_of(database_url, tmp_path, body)

    async with asyncio.timeout(LIMIT_S):
        report = await Migrator(target, mode="migrate").run()

    assert heads(database_url) == {"r3"}
    assert report.targets[0].drive is not None and report.targets[0].drive.startswith("own")
    assert asyncio.get_running_loop().is_running()


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_an_application_on_anyio(use_uvloop: bool, database_url: str, tmp_path: Path) -> None:
    if use_uvloop:
        pytest.importorskip("uvloop")
    target = target_of(database_url, tmp_path)

    anyio.run(
        Migrator(target, mode="migrate").run,
        backend="asyncio",
        backend_options={"use_uvloop": use_uvloop},
    )

    assert heads(database_url) == {"r3"}


@pytest.mark.long("[postgresql")
async def test_an_application_in_a_worker_thread(database_url: str, tmp_path: Path) -> None:
    migrator = Migrator(target_of(database_url, tmp_path), mode="migrate")

    await anyio.to_thread.run_sync(migrator.run_sync)

    assert heads(database_url) == {"r3"}


@pytest.mark.long("[postgresql")
async def test_a_sync_application_in_a_thread(database_url: str, tmp_path: Path) -> None:
    migrator = Migrator(target_of(database_url, tmp_path), mode="migrate")

    await asyncio.to_thread(lambda: asyncio.run(migrator.run()))

    assert heads(database_url) == {"r3"}


CALLS: dict[str, Any] = {
    "run": lambda migrator: migrator.run(),
    "check": lambda migrator: migrator.check(),
    "plan": lambda migrator: migrator.plan(),
    "doctor": lambda migrator: migrator.doctor(),
    "rollback": lambda migrator: migrator.rollback("base"),
    "clear": lambda migrator: migrator.clear(),
}


@pytest.mark.long("[postgresql")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_without_an_asyncio_loop_it_says_so_and_touches_nothing(
    call: Any, database_url: str, tmp_path: Path
) -> None:
    trio = pytest.importorskip("trio")
    migrator = Migrator(target_of(database_url, tmp_path), mode="migrate")

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            await call(migrator)

    with pytest.raises(ConfigurationError, match=r"asyncio.*nothing was touched.*thread"):
        trio.run(main)

    assert tables(database_url) == set()


@pytest.mark.long("[postgresql")
def test_a_trio_application_migrates_in_a_thread(database_url: str, tmp_path: Path) -> None:
    trio = pytest.importorskip("trio")
    migrator = Migrator(target_of(database_url, tmp_path), mode="migrate")

    trio.run(trio.to_thread.run_sync, migrator.run_sync)

    assert heads(database_url) == {"r3"}
