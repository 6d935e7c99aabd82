"""The ledger: durable, shared by replicas, and never trusted more than a database's own word."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import fleets
from support.alembic_projects import heads, tables
from support.fleets import in_process, nobody, outcomes

from automigrator import ConfigurationError, RefusedError
from automigrator.fleet import Fleet, files, schemas
from automigrator.fleet.control import store_of
from automigrator.fleet.ledger import Ledger

FAILURE = {"kind": "revision", "message": "it failed", "revision": "r2", "advice": "repair it"}


@pytest.fixture(params=["sqlite", "postgresql"])
def control(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database for a ledger, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'control.sqlite'}"
        return
    with request.getfixturevalue("empty_databases").lent() as url:
        yield url


@pytest.fixture
def in_a_file(tmp_path: Path) -> Path:
    return tmp_path / "control.sqlite"


async def opened(control: str, fleet: str = "fleet") -> Ledger:
    ledger = Ledger(store_of(control, fleet))
    await ledger.open(nobody)
    return ledger


async def test_another_process_reads_what_was_written(control: str) -> None:
    ledger = await opened(control)
    await ledger.note("a", "p1", "done")
    await ledger.note('b"; drop table', "p1", "quarantined", FAILURE)
    await ledger.order("c")
    await ledger.flush()
    other = await opened(control)
    found = other.of("a", "p1")
    assert found is not None and (found.state, found.failure) == ("done", None)
    found = other.of('b"; drop table', "p1")
    assert found is not None and found.why == "revision in revision r2: it failed"
    assert other.of("a", "p2") is None  # of other files nothing is known
    found = other.of("c", "any")
    assert found is not None and found.why == "ordered by an operator"
    assert (await opened(control, "another fleet")).of("a", "p1") is None
    assert await other.release("c") and not await other.release("c")
    assert {each.tenant for each in (await opened(control)).quarantined()} == {'b"; drop table'}


async def test_what_other_files_left_is_forgotten_after_a_month(control: str) -> None:
    ledger = await opened(control)
    old = time.time() - 40 * 24 * 3600
    rows = [("a", plan, "done", at, "{}") for plan, at in (("p1", old), ("p2", 0.0), ("p3", old))]
    rows[1] = ("a", "p2", "done", time.time(), "{}")
    await ledger.store.write([*rows, ("b", "", "quarantined", old, "{}")])
    await ledger.prune({"p1"})
    left = {row[:2] for row in await ledger.store.rows()}
    assert left == {("a", "p1"), ("a", "p2"), ("b", "")}


async def test_replicas_that_write_at_once_lose_nothing(control: str) -> None:
    names = [f"t{number}" for number in range(8)]
    orders = (names, names[::-1], names)
    writers = [in_process(fleets.write_entries, control, order, 3) for order in orders]
    for each in writers:
        each.join(60)
    assert [each.exitcode for each in writers] == [0] * 3
    ledger = await opened(control)
    for name in names:
        found = ledger.of(name, "plan")
        assert found is not None and found.failure is not None
        assert found.failure["message"] == "2"  # the last word of each of them
    own = [ledger.of(f"own-{each.pid}", "plan") for each in writers]
    assert all(each is not None and each.state == "done" for each in own)


async def test_rows_that_others_have_spoilt_stop_nothing(in_a_file: Path) -> None:
    control = f"sqlite+aiosqlite:///{in_a_file}"
    ledger = await opened(control)
    await ledger.note("a", "p", "quarantined", FAILURE)
    rows = [
        ("b", "p", "odd", 0.0, "{}"),
        ("c", "p", "done", 0.0, "["),
        ("d", "p", "done", 0.0, "[" * 100_000),
        ("e", "p", "done", "late", "{}"),
        ("f", "p", "failed", 0.0, '{"failure": {"kind": "nonsense"}}'),
        ("g", "p", "failed", 0.0, '{"failure": {"kind": "env", "message": ["x"]}}'),
        ("\x1b[2J", "p", "done", 0.0, "{}"),
        ("x" * 10_000, "p", "done", 0.0, "{}"),
        (b"\xff", "p", "done", 0.0, "{}"),
    ]
    with closing(sqlite3.connect(in_a_file)) as connection, connection:
        connection.executemany(
            "insert into fleet_tenant (fleet, tenant, plan, state, at, told) "
            "values ('fleet', ?, ?, ?, ?, ?)",
            rows,
        )
    ledger = await opened(control)
    assert [each.tenant for each in ledger.quarantined()] == ["a"]
    assert {ledger.of(row[0], "p") for row in rows if isinstance(row[0], str)} == {None}


async def test_what_cannot_be_written_is_told_and_stops_nothing(
    fleet_of: Callable[..., Fleet], in_a_file: Path, folder: Path
) -> None:
    fleet = fleet_of("a", "b", control=f"sqlite+aiosqlite:///{in_a_file}")
    await fleet.ledger.open(nobody)
    with closing(sqlite3.connect(in_a_file)) as connection, connection:
        connection.execute(
            "create trigger t before insert on fleet_tenant begin select raise(abort, 'full'); end"
        )
    report = await fleet.run()
    assert report.counts == {"migrated": 2}
    (note,) = report.notes
    assert "cannot be written (IntegrityError: full): the next run looks at every" in note


class TestWhoseItIs:
    async def test_a_strangers_schema_is_not_read(
        self, empty_databases: Any, postgres_server: Any
    ) -> None:
        with empty_databases.lent() as url:
            name = url.rpartition("/")[2]
            stranger = f"{name}_stranger"
            postgres_server.execute(f"create role {stranger}")
            try:
                postgres_server.execute(
                    f"create schema automigrator authorization {stranger}", database=name
                )
                with pytest.raises(RefusedError, match=f"belongs to role '{stranger}'"):
                    await opened(url)
            finally:
                postgres_server.execute(f"drop owned by {stranger} cascade", database=name)
                postgres_server.execute(f"drop role {stranger}")

    async def test_a_file_that_strangers_may_write_to_is_not_read(self, in_a_file: Path) -> None:
        os.close(os.open(in_a_file, os.O_CREAT))
        os.chmod(in_a_file, 0o666)
        with pytest.raises(RefusedError, match="it is not trusted"):
            await opened(f"sqlite+aiosqlite:///{in_a_file}")
        os.unlink(in_a_file)
        os.symlink("elsewhere", in_a_file)
        with pytest.raises(RefusedError, match="a symbolic link"):
            await opened(f"sqlite+aiosqlite:///{in_a_file}")

    async def test_its_file_is_its_owners(self, in_a_file: Path) -> None:
        await opened(f"sqlite+aiosqlite:///{in_a_file}")
        assert os.stat(in_a_file).st_mode & 0o777 == 0o600


class TestATenantsDatabase:
    """It is no place for a ledger, however it is spelled; and nothing is made there."""

    async def test_a_tenants_file(self, fleet_of: Callable[..., Fleet], folder: Path) -> None:
        fleet_of("a", "b")
        os.link(folder / "a.db", folder / "control")
        fleet = fleet_of("a", "b", control=f"sqlite+aiosqlite:///{folder / 'control'}")
        with pytest.raises(RefusedError, match="a: control= names a tenant's own database"):
            await fleet.run()
        assert tables(f"sqlite+aiosqlite:///{folder / 'a.db'}") == set()

    async def test_the_database_of_all_schemas(self, empty_databases: Any, tmp_path: Path) -> None:
        ini = fleets.schema_history(tmp_path)
        with empty_databases.lent() as url:
            empty_databases.server.execute("create schema a", database=url.rpartition("/")[2])
            source = schemas(url, ini, like="a", x=["tenant={schema}"])
            elsewhere = url.replace("127.0.0.1", "localhost").replace("@/", "@localhost/")
            with pytest.raises(RefusedError, match="control= names a tenant's own database"):
                await Fleet(source, mode="migrate", control=elsewhere).run()
            assert tables(url) == set()

    async def test_a_tenant_that_comes_later_is_refused_and_the_others_go_on(
        self, fleet_of: Callable[..., Fleet], folder: Path, in_a_file: Path
    ) -> None:
        control = f"sqlite+aiosqlite:///{in_a_file}"
        await fleet_of("a", control=control).run()
        os.link(in_a_file, folder / "b.db")
        report = await fleet_of("a", "c", control=control).run()
        assert outcomes(report) == {"a": "current", "b": "failed", "c": "migrated"}
        assert "alembic_version" not in tables(control)


class TestAcrossProcesses:
    async def test_a_killed_run_is_gone_on_with(
        self, fleet_of: Callable[..., Fleet], folder: Path, ini: Path, in_a_file: Path
    ) -> None:
        fleets.deploy(ini, "r4", "r3", 'import time; time.sleep(0.1); op.execute("select 1")')
        names = [f"t{number}" for number in range(6)]
        control = f"sqlite+aiosqlite:///{in_a_file}"
        fleet = fleet_of(*names, control=control)
        process = in_process(fleets.run_files, folder, ini, control)
        done: set[str] = set()
        while len(done) < 2:
            assert process.is_alive()
            done = {n for n in names if heads(f"sqlite+aiosqlite:///{folder / n}.db") == {"r4"}}
            await asyncio.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        report = await fleet.run()
        assert report.at_head
        again = {each.name for each in report if each.applied}
        assert not again & done and len(again) >= 2
        assert (await fleet.status()).counts == {"done": 6}

    async def test_a_quarantine_is_known_to_the_next_process_and_ended_there(
        self, fleet_of: Callable[..., Fleet], folder: Path, in_a_file: Path
    ) -> None:
        control = f"sqlite+aiosqlite:///{in_a_file}"
        first = fleet_of("a", "b", control=control)
        fleets.spoil(folder / "b.db")
        await first.run()
        second = fleet_of("a", "b", control=control)
        status = await second.status()
        assert status.counts == {"done": 1, "quarantined": 1}
        assert "quarantined: b: revision in revision r2" in str(status)
        assert outcomes(await second.run()) == {"a": "current", "b": "quarantined"}
        fleets.mend(folder / "b.db")
        assert await fleet_of(control=control).retry() == ("b",)
        assert outcomes(await second.run()) == {"a": "current", "b": "migrated"}

    async def test_a_restored_tenant_is_migrated_again_whatever_the_ledger_says(
        self, fleet_of: Callable[..., Fleet], folder: Path, in_a_file: Path
    ) -> None:
        fleet = fleet_of("a", control=f"sqlite+aiosqlite:///{in_a_file}")
        await fleet.run()
        os.truncate(folder / "a.db", 0)
        assert outcomes(await fleet.run()) == {"a": "migrated"}

    async def test_a_pause_holds_for_every_process(
        self,
        fleet_of: Callable[..., Fleet],
        folder: Path,
        in_a_file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("automigrator.fleet.fleet.POLL_S", 0.02)
        control = f"sqlite+aiosqlite:///{in_a_file}"
        fleet, other = (fleet_of("a", control=control) for _ in range(2))
        await other.pause()
        events = fleet.events()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fleet.run())
            async for event in events:
                if event.name == "fleet-paused":
                    break
            assert (await other.status()).paused
            await asyncio.sleep(0.1)
            assert heads(f"sqlite+aiosqlite:///{folder / 'a.db'}") == set()
            await other.resume()
        assert task.result().counts == {"migrated": 1}

    async def test_a_ledger_in_memory_says_what_it_cannot(
        self, fleet_of: Callable[..., Fleet]
    ) -> None:
        with pytest.raises(ConfigurationError, match="status needs a ledger"):
            await fleet_of("a").status()


def test_a_control_database_is_a_server_or_a_file(ini: Path, folder: Path) -> None:
    with pytest.raises(ConfigurationError):
        Fleet(files(folder, ini), control="sqlite+aiosqlite://")
