"""A signal to stop, sent to a server that migrates before it serves, ends it soon and cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.alembic_projects import heads, linear, query, revision, tables
from support.process_state import unchanged_process

from automigrator import Migrator, Run, StoppedError, Target, hookimpl

Make = Callable[..., Target]

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
    pytest.mark.long(
        "SIGINT",
        "given",
        "many",
        "workers",
        "postgresql",
        "while_it_cleans_up",
        "hears_the_signal",
        "without_handlers",
    ),
]

LIMIT_S = 10.0
"""Two seconds are the aim, and printed; a loaded machine is given more."""

APPLICATION = """
import os
from fastapi import FastAPI
from automigrator import Migrator, Target
target = Target(os.environ["URL"], os.environ["CONFIG"], drive=os.environ["DRIVE"])
app = FastAPI(lifespan=Migrator(target, mode="migrate").lifespan)
"""
LONG = {
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    "SELECT count(*) FROM c",
    "postgresql": "SELECT pg_sleep(60)",
}
MANY = """
began = time.monotonic()
while time.monotonic() < began + 60:
    op.execute("SELECT 1")
"""
RUNNING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that the third revision makes when it begins."""
    return tmp_path / "begun"


def busy(body: str, marker: Path) -> Callable[[Path], None]:
    """Two revisions, and a third that makes a table and then runs `body`."""

    def revisions(folder: Path) -> None:
        linear(folder, 2)
        made = 'op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))'
        begins = f"open({str(marker)!r}, 'w').close()"
        revision(
            folder, "r3", "r2", imports="import time", upgrade=f"{made}\n{begins}\n{body.strip()}"
        )

    return revisions


class Server:
    """A uvicorn that has begun to start the application."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)

    def ended_by(self, *signals: int) -> float:
        """Send these, one soon after another; returns the seconds until it has ended."""
        began = time.monotonic()
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.05)
        self.process.wait(15)
        seconds = time.monotonic() - began
        print(f"ended {seconds:.2f} s after the signal")
        return seconds


@contextmanager
def uvicorn(tmp_path: Path, target: Target, *options: str) -> Iterator[Server]:
    (tmp_path / "application.py").write_text(APPLICATION)
    url = target.application_url.render_as_string(hide_password=False)
    environment = {"URL": url, "CONFIG": str(target.config), "DRIVE": target.drive}
    command = [sys.executable, "-m", "uvicorn", "application:app", "--port", "0", *options]
    log = tmp_path / "uvicorn.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        yield Server(process, log)
    finally:
        process.kill()
        process.wait()


async def migrates_at_once(target: Target, versions: Path, url: str) -> None:
    """What the one that was stopped left does not hold up the next."""
    revision(versions, "r3", "r2", upgrade="pass")
    began = time.monotonic()
    report = await Migrator(target, mode="migrate").run()
    assert report.outcome == "migrated" and report.targets[0].waited_s < 1
    assert heads(url) == {"r3"} and time.monotonic() - began < LIMIT_S


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("drive", ["given", "own"])
@pytest.mark.parametrize("what", ["long", "many"])
async def test_a_server_that_is_told_to_stop_while_it_migrates_undoes_the_revision_and_ends(
    what: str,
    drive: Any,
    number: int,
    make_target: Make,
    database_url: str,
    versions: Path,
    marker: Path,
    tmp_path: Path,
) -> None:
    kind = make_url(database_url).get_backend_name()
    body = f"op.execute({LONG[kind]!r})" if what == "long" else MANY
    target = make_target(busy(body, marker), drive=drive, kind="per_migration")
    with uvicorn(tmp_path, target) as server:
        server.until(marker.exists)

        seconds = server.ended_by(number)

        assert server.process.returncode == 3, server.said
        assert seconds < LIMIT_S
        assert f"stopped by {signal.Signals(number).name} while migrating" in server.said
        assert "revision r3 was under way and was undone; applied and kept: r1, r2" in server.said
        assert server.said.count("Traceback") == 1
    assert heads(database_url) == {"r2"} and "half" not in tables(database_url)
    if kind == "postgresql":
        assert query(database_url, RUNNING) == []
    await migrates_at_once(target, versions, database_url)


async def test_signals_that_come_while_it_cleans_up_change_nothing(
    make_target: Make, database_url: str, versions: Path, marker: Path, tmp_path: Path
) -> None:
    kind = make_url(database_url).get_backend_name()
    target = make_target(busy(f"op.execute({LONG[kind]!r})", marker))
    with uvicorn(tmp_path, target) as server:
        server.until(marker.exists)

        server.ended_by(signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT)

        # a signal that finds it all cleaned up takes the interpreter down
        assert server.process.returncode in (3, -signal.SIGINT, -signal.SIGTERM), server.said
        assert "stopped by SIGINT" in server.said and server.said.count("Traceback") == 1
    await migrates_at_once(target, versions, database_url)


async def test_a_server_of_several_workers_ends_them_all(
    make_target: Make, postgres_url: str, versions: Path, marker: Path, tmp_path: Path
) -> None:
    body = busy("op.execute('SELECT pg_sleep(60)')", marker)
    target = make_target(body, database=postgres_url)
    with uvicorn(tmp_path, target, "--workers", "2") as server:
        server.until(marker.exists)

        assert server.ended_by(signal.SIGTERM) < LIMIT_S * 2

        assert "stopped by SIGTERM" in server.said
    assert query(postgres_url, RUNNING) == []
    await migrates_at_once(target, versions, postgres_url)


async def sent_in_third(migrator: Migrator, number: int) -> None:
    """Run, and send this process a signal once r3 is under way."""
    running = asyncio.create_task(migrator.run())
    async for event in migrator.events():
        if event.name == "revision-started" and event.data["revision"] == "r3":
            break
    os.kill(os.getpid(), number)
    await running


async def test_an_applications_own_handler_hears_the_signal_and_stays(
    make_target: Make, sqlite_url: str, marker: Path
) -> None:
    heard: list[int] = []
    target = make_target(busy(f"op.execute({LONG['sqlite']!r})", marker), database=sqlite_url)
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with unchanged_process(), pytest.raises(StoppedError) as stopped:
            await sent_in_third(Migrator(target, mode="migrate"), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] and stopped.value.signal == signal.SIGTERM


async def test_a_handler_of_the_loop_hears_the_signal_and_stays(
    make_target: Make, sqlite_url: str, marker: Path
) -> None:
    heard = asyncio.Event()
    target = make_target(busy(f"op.execute({LONG['sqlite']!r})", marker), database=sqlite_url)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, heard.set)
    try:
        with unchanged_process(), pytest.raises(StoppedError):
            await sent_in_third(Migrator(target, mode="migrate"), signal.SIGTERM)
        await asyncio.wait_for(heard.wait(), LIMIT_S)
        heard.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(heard.wait(), LIMIT_S)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def test_of_two_runs_at_once_both_end_and_the_handlers_are_put_back(
    make_target: Make, sqlite_url: str, marker: Path, tmp_path: Path
) -> None:
    body = busy(f"op.execute({LONG['sqlite']!r})", marker)
    target = make_target(body, database=sqlite_url)
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with unchanged_process():
            runs = [asyncio.create_task(Migrator(target, mode="migrate").run()) for _ in range(2)]
            while not marker.exists():  # either may lead  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            for running in runs:
                with pytest.raises(StoppedError):
                    await running
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_run_may_leave_signals_alone(make_target: Make, sqlite_url: str) -> None:
    seen: list[Any] = []

    class Looks:
        @hookimpl
        def before_migrate(self, run: Run) -> None:
            seen.append((signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)))

    found = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    target = make_target(database=sqlite_url)

    await Migrator(target, mode="migrate", plugins=[Looks()], stop_on_signals=False).run()

    assert seen == [found]


SCRIPT = """
import sys
from automigrator import Migrator, Target
try:
    Migrator(Target(sys.argv[1], sys.argv[2]), mode="migrate").run_sync()
finally:
    print("cleaned up", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_script_without_handlers_ends_by_the_signal_when_it_has_cleaned_up(
    number: int, make_target: Make, database_url: str, versions: Path, marker: Path
) -> None:
    kind = make_url(database_url).get_backend_name()
    target = make_target(busy(f"op.execute({LONG[kind]!r})", marker))
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, database_url, str(target.config)], stderr=subprocess.PIPE
    )
    try:
        server = Server(process, marker)
        server.until(marker.exists)
        assert server.ended_by(number) < LIMIT_S
        assert process.returncode == -number
        assert process.stderr is not None
        assert b"revision r3 was under way and was undone" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    if kind == "postgresql":
        assert query(database_url, RUNNING) == []
    asyncio.run(migrates_at_once(target, versions, database_url))
