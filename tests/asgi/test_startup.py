"""What follows when a migration or an application's own start fails, and what is told of it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import alembic_projects as projects
from support import postgres_server
from support.asgi_calls import Application, Server, served

from automigrator import MigrationError, Migrator, Run, Target, TargetReport, Timeouts
from automigrator.asgi import Gate, startup

GateOf = Callable[..., Gate]

PASSWORD = "s3cret-word"


def broken(folder: Path) -> None:
    projects.revision(folder, "r1", None, upgrade="op.execute('INSERT INTO absent VALUES (1)')")


class Defective(Migrator):
    """One whose own code is wrong."""

    async def migrate_target(self, run: Run) -> TargetReport:
        raise KeyError(f"postgresql://app:{PASSWORD}@db/shop")


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes with which the process would have ended."""
    codes: list[int] = []
    monkeypatch.setattr(startup, "_exit", codes.append)
    return codes


def critical(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is told of a failure, with the traceback below it."""
    text = logging.Formatter().format
    return [text(each) for each in caplog.records if each.levelno == logging.CRITICAL]


class TestTheLog:
    async def test_a_failed_migration_is_told_once_as_the_screen_that_run_raises(
        self, gate_of: GateOf, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = gate_of(Application(), broken)
        async with served(gate) as server:
            await server.state_is("failed")
        (told,) = critical(caplog)
        with pytest.raises(MigrationError) as raised:
            await gate._migrator.run()
        screen = str(raised.value).splitlines()
        first, *lines = told.splitlines()
        assert first == f"automigrator: the application does not serve: {screen[0]}"
        assert lines[:3] == screen[1:4]
        assert "Traceback" not in told

    async def test_a_defect_is_told_with_its_traceback_and_without_passwords(
        self, gate_of: GateOf, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with served(gate_of(Application(), kind=Defective)) as server:
            state = await server.state_is("failed")
        (told,) = critical(caplog)
        assert "in migrate_target" in told
        assert state["reason"] == "KeyError: 'postgresql://app:***@db/shop'"
        assert PASSWORD not in told + state["reason"]

    async def test_an_application_that_fails_is_told_with_its_traceback(
        self, gate_of: GateOf, caplog: pytest.LogCaptureFixture, exits: list[int]
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            try:
                raise RuntimeError(f"no cache at redis://:{PASSWORD}@cache/0")
            except RuntimeError:
                # as Starlette does
                traceback = "Traceback (most recent call last):\n  of the error\n"
                await send({"type": "lifespan.startup.failed", "message": traceback})
                raise

        async with served(gate_of(app)) as server:
            state = await server.state_is("failed")
        (told,) = critical(caplog)
        reason = "the application did not start: RuntimeError: no cache at redis://:***@cache/0"
        assert state["reason"] == reason
        first, *traceback = told.splitlines()
        assert first == f"automigrator: the application does not serve: {reason}"
        assert traceback[0] == "Traceback (most recent call last):"
        assert PASSWORD not in told

    async def test_no_line_of_others_begins_a_line_of_the_log(
        self, gate_of: GateOf, caplog: pytest.LogCaptureFixture, exits: list[int]
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            message = "no cache\nCRITICAL forged\x1b[2J"
            await send({"type": "lifespan.startup.failed", "message": message})

        async with served(gate_of(app)) as server:
            await server.state_is("failed")
        (told,) = critical(caplog)
        assert told.splitlines()[0].endswith("no cache CRITICAL forged\\x1b[2J")


class TestAnApplicationThatDoesNotStart:
    async def test_fails_the_server_s_start_where_there_was_nothing_to_migrate(
        self, gate_of: GateOf, exits: list[int]
    ) -> None:
        """As it would without the gate: a server knows best what follows."""
        gate = gate_of(Application(broken="startup"), mode="skip", head_start=30.0)
        server = Server(gate)
        await server.start()
        (said,) = server.said
        assert said["type"] == "lifespan.startup.failed"
        assert said["message"] == "the application did not start: no cache"
        assert exits == []

    async def test_ends_the_process_where_the_server_has_bound(
        self, gate_of: GateOf, exits: list[int]
    ) -> None:
        async with served(gate_of(Application(broken="startup"))) as server:
            await server.state_is("failed")
        assert exits == [3]

    async def test_does_not_end_a_process_that_is_not_its_server_s(
        self, gate_of: GateOf, exits: list[int]
    ) -> None:
        """A test client, say, serves in a thread."""

        async def serve() -> None:
            async with served(gate_of(Application(broken="startup"))) as server:
                await server.state_is("failed")

        await asyncio.to_thread(asyncio.run, serve())
        assert exits == []


class TestAnotherTry:
    @pytest.mark.parametrize("on_failure", ["stay", "serve"])
    async def test_a_database_that_was_away_is_migrated_when_it_is_back(
        self, make_target: Callable[..., Target], tmp_path: Path, on_failure: Any
    ) -> None:
        """A folder that is not mounted yet, say. Nothing is served meanwhile: nobody has seen the
        database."""
        folder = tmp_path / "volume"
        folder.touch()
        database = f"sqlite+aiosqlite:///{folder / 'app.db'}"
        target = make_target(database=database, timeouts=Timeouts(connect=0.05))
        migrator = Migrator(target, mode="migrate", announce=False)
        app = Application()
        gate = Gate(app, migrator, on_failure=on_failure, retry_every=0.05, details=True)
        async with served(gate) as server:
            state = await server.state_is("failed")
            assert state["failed"] == "unreachable"
            assert app.calls == []
            folder.unlink()
            await server.ready()
        assert projects.heads(database.replace("+aiosqlite", "")) == {"r3"}

    @pytest.mark.long
    async def test_a_server_that_comes_up_later_is_migrated(
        self, make_target: Callable[..., Target]
    ) -> None:
        with postgres_server.stoppable() as (postgres, stop):
            database = postgres.url("postgres")
            restart = stop()
            target = make_target(database=database, timeouts=Timeouts(connect=0.5))
            migrator = Migrator(target, mode="migrate", announce=False)
            app = Application()
            async with served(Gate(app, migrator, retry_every=0.2, details=True)) as server:
                for _ in range(2):
                    state = await server.state_is("failed")
                    assert state["failed"] == "unreachable"
                    assert state["targets"][0]["failure"]["state"] == "clean"
                    await server.state_is("migrating")
                await asyncio.to_thread(restart)
                await server.ready()
            version = postgres.execute("select version_num from alembic_version")
            assert version == [("r3",)]
            assert app.calls == ["started", "ended"]

    async def test_who_only_looks_finds_what_others_have_repaired(
        self, gate_of: GateOf, url: str, tmp_path: Path
    ) -> None:
        """Whatever is wrong: to look again changes nothing."""
        app = Application()
        gate = gate_of(app, mode="wait", retry_every=0.05)
        await Migrator(*gate._migrator.targets, mode="migrate", announce=False).run()
        with closing(sqlite3.connect(tmp_path / "app.db")) as database, database:
            database.execute("UPDATE alembic_version SET version_num = 'newer'")
        async with served(gate) as server:
            assert (await server.state_is("failed"))["failed"] == "ahead"
            with closing(sqlite3.connect(tmp_path / "app.db")) as database, database:
                database.execute("UPDATE alembic_version SET version_num = 'r1'")
            await server.ready()
        assert app.calls == ["started", "ended"]

    @pytest.mark.parametrize("left", ["r2", "r1"], ids=["all-that-it-expects", "less"])
    async def test_older_code_serves_when_the_database_was_rolled_back(
        self, gate_of: GateOf, tmp_path: Path, left: str
    ) -> None:
        app = Application()
        gate = gate_of(app, partial(projects.linear, n=2), retry_every=0.05)
        await Migrator(*gate._migrator.targets, mode="migrate", announce=False).run()

        def set_to(revision: str) -> None:
            with closing(sqlite3.connect(tmp_path / "app.db")) as database, database:
                database.execute("UPDATE alembic_version SET version_num = ?", [revision])

        await gate._migrator.rollback(left)
        set_to("newer")
        async with served(gate) as server:
            state = await server.state_is("failed")
            assert (state["failed"], state["retry_in_s"]) == ("ahead", None)
            set_to(left)
            await server.ready()
        assert app.calls == ["started", "ended"]

    @pytest.mark.parametrize("how", ["migrated", "cleared"])
    async def test_a_failed_migration_is_repeated_only_when_somebody_has_repaired_it(
        self, gate_of: GateOf, tmp_path: Path, how: str
    ) -> None:
        def second_broken(folder: Path) -> None:
            projects.linear(folder, 1)
            into = "op.execute('INSERT INTO absent VALUES (1)')"
            projects.revision(folder, "r2", "r1", upgrade=into)

        app = Application()
        gate = gate_of(app, second_broken, retry_every=0.05)
        first = gate._migrator.targets[0]._replace(revision="r1")
        await Migrator(first, mode="migrate", announce=False).run()

        def repair(statement: str) -> None:
            with closing(sqlite3.connect(tmp_path / "app.db")) as database, database:
                database.execute(statement)

        async with served(gate) as server:
            await server.state_is("failed")
            repair("CREATE TABLE absent (id INTEGER)")
            await asyncio.sleep(0.3)
            (status,) = await gate._migrator.check()
            assert status.failed_starts == 1  # nothing was tried meanwhile
            if how == "cleared":
                await gate._migrator.clear()
            else:
                repair("UPDATE alembic_version SET version_num = 'r2'")
            await server.ready()
        assert app.calls == ["started", "ended"]
