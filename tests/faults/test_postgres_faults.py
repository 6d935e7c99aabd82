"""Real faults under a PostgreSQL target; rows are compared whole after another start."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from support import postgres_server
from support.checksums import checksums
from support.notes_application import BROKEN, GOOD, HALF_WAY, ROWS, Application
from support.small_disk import small_disk

from automigrator import MigrationError, Migrator, Rehearsal, TargetReport, hookimpl
from automigrator.backends.postgresql.dump import files as dump_files

FULL = bool(os.environ.get("AUTOMIGRATOR_FAULTS"))
"""All moments instead of a few."""

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("pg_dump") is None, reason="no PostgreSQL client programs on this machine"
    ),
]

FILLS = """
with op.get_context().autocommit_block():
    op.execute("CREATE TABLE big AS SELECT g, repeat('x', 1000) AS x "
               "FROM generate_series(1, 1000) g")
op.execute("INSERT INTO big SELECT g, repeat('x', 1000) FROM generate_series(1, 90000) g")
"""
"""Fills a disk after something was committed."""


class Stops:
    """Lets nothing be migrated."""

    @hookimpl
    def before_migrate(self) -> None:
        raise RuntimeError("no")


ways = pytest.mark.parametrize("copy", ["template", "dump"])


def strategy(notes: Application, copy: str, **options: Any) -> Any:
    return ("backup-restore", {"copy": copy, "folder": notes.root / "dumps", **options})


async def failed(notes: Application, *recovery: Any) -> TargetReport:
    with pytest.raises(MigrationError) as info:
        await notes.start(*recovery)
    return info.value.report.targets[0]


def beside(notes: Application, server: postgres_server.Server) -> list[str]:
    """What is kept of copies: databases, and files of dumps."""
    live = str(make_url(notes.url).database)
    files = notes.root / "dumps"
    names = [each.name for each in files.iterdir()] if files.is_dir() else []
    return [*server.databases(f"{live}__automigrator"), *names]


@pytest.fixture(name="small_disk")
def a_small_disk() -> Iterator[Path]:
    with small_disk() as place:
        yield place


@pytest.fixture
def on_small_disk(
    small_disk: Path, postgres_server: postgres_server.Server, postgres_name: str, tmp_path: Path
) -> Iterator[Application]:
    """An application whose database is on the small disk; the server is not."""
    if "AUTOMIGRATOR_TEST_POSTGRES" in os.environ:
        pytest.skip("the server may be on another machine than its small disk")
    folder = small_disk / "space"
    folder.mkdir(mode=0o700)
    user = postgres_server_user()
    if user is not None:
        os.chown(folder, *user)
    execute = postgres_server.execute
    execute(f"create tablespace {postgres_name} location '{folder}'")
    execute(f"create database {postgres_name} tablespace {postgres_name}")
    try:
        yield Application(tmp_path, postgres_server.url(postgres_name))
    finally:
        postgres_server.drop_all(postgres_name)
        execute(f"drop tablespace {postgres_name}")


def postgres_server_user() -> tuple[int, int] | None:
    user = postgres_server.unprivileged()
    return (user["user"], user["group"]) if user else None


@pytest.mark.parametrize("copy", ["template", "dump"])
async def test_a_disk_that_is_full_before_the_migration_stops_it(
    on_small_disk: Application,
    small_disk: Path,
    postgres_server: postgres_server.Server,
    monkeypatch: pytest.MonkeyPatch,
    copy: str,
) -> None:
    notes = on_small_disk
    notes.execute(
        "create table big as select g, md5(g::text) || md5((-g)::text) as x "
        "from generate_series(1, 30000) g"
    )
    before = checksums(notes.url)
    notes.deploy(HALF_WAY)
    room = shutil.disk_usage(small_disk).free - (500 << 10)
    (small_disk / "ballast").write_bytes(b"x" * room)
    folder = small_disk / "dumps"
    report = await failed(notes, strategy(notes, copy, folder=folder))
    assert [failure.kind for failure in report.failures] == ["hook"]
    assert "nothing was changed" in report.failures[0].message
    if copy == "dump":  # the check before it may be wrong: others write to the disk as well
        monkeypatch.setattr(dump_files, "SPACE_FACTOR", 0)
        monkeypatch.setattr(dump_files, "_SPARE", 0)
        report = await failed(notes, strategy(notes, copy, folder=folder))
        assert "No space left" in report.failures[0].message
        assert list(folder.iterdir()) == []
    (small_disk / "ballast").unlink()
    assert checksums(notes.url) == before
    assert beside(notes, postgres_server) == []
    report = await failed(notes, strategy(notes, copy))
    assert "restored from" in " ".join(report.notes)
    assert checksums(notes.url) == before


@ways
async def test_a_disk_too_full_for_a_copy_to_rehearse_on_changes_nothing(
    on_small_disk: Application,
    small_disk: Path,
    postgres_server: postgres_server.Server,
    copy: Any,
) -> None:
    notes = on_small_disk
    notes.execute(
        "create table big as select g, md5(g::text) || md5((-g)::text) as x "
        "from generate_series(1, 30000) g",
        "checkpoint",  # or the copy's own fails first, and the server does not say of what
    )
    before = checksums(notes.url)
    notes.deploy(GOOD)
    migrator = Migrator(
        notes.target(rehearse=Rehearsal(copy=copy)), mode="migrate", max_failed_starts=0
    )
    room = shutil.disk_usage(small_disk).free - (500 << 10)
    (small_disk / "ballast").write_bytes(b"x" * room)
    with pytest.raises(MigrationError) as info:
        await migrator.run()
    (failure,) = info.value.report.targets[0].failures
    assert (failure.kind, failure.state, failure.in_rehearsal) == ("rehearsal", "clean", True)
    assert "the server has no room for database" in failure.message
    (small_disk / "ballast").unlink()
    assert (checksums(notes.url), beside(notes, postgres_server)) == (before, [])
    assert (await migrator.run()).outcome == "migrated"


@ways
async def test_a_disk_that_fills_during_the_migration_costs_nothing(
    on_small_disk: Application,
    small_disk: Path,
    postgres_server: postgres_server.Server,
    copy: str,
) -> None:
    notes = on_small_disk
    before = checksums(notes.url)
    notes.deploy(FILLS)
    report = await failed(notes, strategy(notes, copy))
    (failure,) = report.failures
    assert (failure.kind, failure.state) == ("disk-full", "partial-within-revision")
    if copy == "template":  # a restore needs room as well: the next start does it
        said = " ".join(report.notes)
        assert "the server has no room for database" in said and "No space left" in said
        assert "stays as the failed migration left it" in said and "the next start tries" in said
        half = checksums(notes.url)
        assert half.keys() - before.keys() == {"public.big"}  # committed before the disk was full
        assert notes.notes() == ROWS and notes.heads == {"r1"}
        (snapshot,) = beside(notes, postgres_server)  # and nothing half-made
        assert snapshot in said and checksums(notes.url_of(snapshot)) == before
        (status,) = (await Migrator(notes.target()).check()).targets
        assert status.unfinished
        resize = ["mount", "-o", "remount,size=96m", str(small_disk)]
        await asyncio.to_thread(subprocess.run, resize, check=True)
        with pytest.raises(MigrationError) as info:
            await notes.start(strategy(notes, copy), plugins=[Stops()])
        (report,) = info.value.report.targets
        assert "put back from" in " ".join(report.notes)
    else:
        assert "restored from" in " ".join(report.notes)
    assert checksums(notes.url) == before
    assert report.after == ("r1",)


@ways
async def test_a_database_that_may_only_be_read_is_left_as_it_is(
    tmp_path: Path, postgres_url: str, postgres_server: postgres_server.Server, copy: str
) -> None:
    notes = Application(tmp_path, postgres_url)
    before = checksums(postgres_url)
    notes.deploy(HALF_WAY)
    live = make_url(postgres_url).database
    postgres_server.execute(f"alter database {live} set default_transaction_read_only = on")
    report = await failed(notes, strategy(notes, copy))
    assert report.failures[0].kind in ("read-only", "hook")
    assert "read-only" in report.failures[0].message
    assert checksums(postgres_url) == before
    postgres_server.execute(f"alter database {live} reset all")
    notes.deploy(GOOD)
    report = await failed(notes, strategy(notes, copy))
    assert checksums(postgres_url) == before


@ways
async def test_an_applications_pool_that_is_open_throughout_is_a_refusal_or_goes_on_afterwards(
    tmp_path: Path, postgres_url: str, copy: str
) -> None:
    notes = Application(tmp_path, postgres_url)
    before = checksums(postgres_url)
    notes.deploy(HALF_WAY)
    dsn = postgres_url.replace("+asyncpg", "")
    seen: list[int] = []
    async with asyncpg.create_pool(dsn, min_size=2, max_size=4) as pool:
        stop = asyncio.Event()

        async def serve() -> None:
            while not stop.is_set():
                try:
                    seen.append(await pool.fetchval("select count(*) from notes"))
                except Exception:  # noqa: BLE001 - asyncpg raises its internal errors as well
                    seen.append(-1)
                await asyncio.sleep(0.01)

        serving = asyncio.gather(serve(), serve())
        report = await failed(notes, strategy(notes, copy))
        assert "connected: pid" in report.failures[0].message
        assert -1 not in seen  # refused, and nobody was disturbed
        report = await failed(notes, strategy(notes, copy, disconnect_others=True))
        assert "restored from" in " ".join(report.notes)
        seen.clear()
        while 3 not in seen:  # noqa: ASYNC110 - until it serves again
            await asyncio.sleep(0.01)
        stop.set()
        await serving
    assert checksums(postgres_url) == before


async def test_a_dump_that_does_not_come_out_whole_stops_the_migration(
    tmp_path: Path, postgres_url: str
) -> None:
    notes = Application(tmp_path, postgres_url)
    before = checksums(postgres_url)
    notes.deploy(HALF_WAY)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        real = shutil.which(name)
        cut = f'[ "$1" = -Fc ] && {{ {real} "$@" | head -c -100; exit 0; }}\n'
        text = f'#!/bin/sh\n{cut if name == "pg_dump" else ""}exec {real} "$@"\n'
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    report = await failed(notes, strategy(notes, "dump", binaries=folder))
    assert "pg_restore failed" in report.failures[0].message
    assert checksums(postgres_url) == before
    assert list((tmp_path / "dumps").iterdir()) == []


@pytest.fixture(scope="module")
def stopped() -> Iterator[Any]:
    with postgres_server.stoppable() as both:
        yield both


@ways
@pytest.mark.parametrize("seed", range(20 if FULL else 2))
async def test_a_server_that_is_stopped_at_any_moment_is_put_right_by_the_next_start(
    stopped: Any, tmp_path: Path, copy: str, seed: int
) -> None:
    server, stop = stopped
    chance = random.Random(f"{copy} {seed}")
    name = f"stopped_{copy}_{seed}"
    server.create(name)
    notes = Application(tmp_path, server.url(name))
    notes.execute(
        "create table more as select g, md5(g::text) as x from generate_series(1, 20000) g"
    )
    before = checksums(notes.url)
    slow = "op.execute('SELECT pg_sleep(0.2)')\n"
    notes.deploy(slow + HALF_WAY.replace(BROKEN, slow + BROKEN))
    start = asyncio.create_task(
        Migrator(
            notes.target(connect_timeout=2), mode="migrate", recovery=[strategy(notes, copy)]
        ).run()
    )
    moment = chance.uniform(0, 4.0)
    await asyncio.wait({start}, timeout=moment)
    restart = await asyncio.to_thread(stop)
    await asyncio.wait({start})
    start.exception()
    await asyncio.to_thread(restart)
    report = await failed(notes, strategy(notes, copy))
    found = checksums(notes.url)
    assert found == before, (seed, moment, report.notes)
    assert notes.notes() == ROWS
    # nothing half-made stays, and there is nothing to do for a third start
    left = beside(notes, server)
    assert not [each for each in left if "_side_" in each or each.endswith(".partial")], left
    assert (await failed(notes, strategy(notes, copy))).after == ("r1",)
    assert checksums(notes.url) == before
    server.drop_all(name)
