"""The SQLite backend: looking, locking, real transactions, snapshots, replacement."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool
from support.sqlite_holds import held

from automigrator.backends.access import Access
from automigrator.backends.contract.journal import Replaced
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.sqlite import journal, recover
from automigrator.backends.sqlite import side as sides
from automigrator.backends.sqlite.backend import SQLite
from automigrator.backends.sqlite.connections import file_of
from automigrator.backends.sqlite.copying import overwrite
from automigrator.errors import ConfigurationError, RefusedError
from automigrator.retention import Limits
from automigrator.runner.diagnosis import diagnose
from automigrator.runner.state import Left
from automigrator.target import Target

TABLES = [VersionTable()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "app.db"


@pytest.fixture
def backend(file: Path, tmp_path: Path) -> SQLite:
    return SQLite(Access(Target(f"sqlite:///{file}", tmp_path)))


def write(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def read(file: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchall()


def write_text(file: Path, text: str) -> None:
    file.write_text(text)


def stamped(file: Path, head: str) -> None:
    write(
        file,
        "CREATE TABLE IF NOT EXISTS alembic_version (version_num)",
        "DELETE FROM alembic_version",
        f"INSERT INTO alembic_version VALUES ('{head}')",
    )


async def test_looking_at_an_absent_file_creates_nothing(backend: SQLite, file: Path) -> None:
    sight = await backend.look(TABLES)
    assert not sight.exists
    assert not file.parent.exists()


async def test_creating_makes_the_folder_too_and_says_whether_it_did(
    backend: SQLite, file: Path
) -> None:
    assert await backend.create()
    assert not await backend.create()
    sight = await backend.look(TABLES)
    assert sight.exists and not sight.has_tables and sight.heads == {VersionTable(): None}


async def test_of_many_that_create_at_once_exactly_one_did(tmp_path: Path) -> None:
    for number in range(30):
        url = f"sqlite:///{tmp_path / f'{number}.db'}"
        backends = [SQLite(Access(Target(url, tmp_path))) for _ in range(8)]
        created = await asyncio.gather(*(each.create() for each in backends))
        assert created.count(True) == 1


def test_a_link_to_nowhere_is_created_at_its_other_end(
    backend: SQLite, file: Path, tmp_path: Path
) -> None:
    file.parent.mkdir()
    file.symlink_to(tmp_path / "real.db")
    assert asyncio.run(backend.create())
    assert (tmp_path / "real.db").exists() and file.is_symlink()


async def test_heads_and_other_tables_are_seen(backend: SQLite, file: Path) -> None:
    await backend.create()
    stamped(file, "r1")
    assert (await backend.look(TABLES)).all_heads() == ("r1",)
    assert not (await backend.look(TABLES)).has_tables
    write(file, "CREATE TABLE users (id)")
    assert (await backend.look(TABLES)).has_tables


async def test_text_in_place_of_a_database_is_corrupt(backend: SQLite, file: Path) -> None:
    file.parent.mkdir()
    write_text(file, "this is not a database " * 100)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        await backend.look(TABLES)
    assert backend.classify(caught.value).kind == "corrupt"


async def test_one_holder_at_a_time_and_the_other_is_told_who(
    backend: SQLite, tmp_path: Path, file: Path
) -> None:
    await backend.create()
    other = SQLite(Access(Target(f"sqlite:///{file}", tmp_path)))
    told: list[str] = []
    async with backend.lock(TABLES, 5, lambda *_: None):
        with pytest.raises(TimeoutError, match="still held by process"):
            async with other.lock(TABLES, 0.1, lambda _, leader: told.append(leader)):
                pass
    assert told
    async with other.lock(TABLES, 5, lambda *_: None) as hold:
        assert hold.waited_s < 5


async def test_adopted_transactions_roll_ddl_back(backend: SQLite, file: Path) -> None:
    await backend.create()

    def half(connection: Connection) -> None:
        backend.sessions.adopt(connection)
        connection.execute(text("CREATE TABLE half (id)"))
        connection.rollback()

    async with backend.engine().connect() as connection:
        await connection.run_sync(half)
    assert read(file, "SELECT name FROM sqlite_master") == []


async def test_a_look_waits_for_no_reader(backend: SQLite, file: Path) -> None:
    """A COMMIT waits for them that has begun IMMEDIATE, even when there is nothing to write."""
    await backend.create()
    write(file, "CREATE TABLE notes (id)")

    def looks(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        connection.commit()
        undo = backend.sessions.adopt(connection, to_write=False)
        connection.execute(text("SELECT * FROM notes"))
        connection.commit()
        undo()

    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM notes").fetchall()
        async with backend.engine().connect() as connection:
            await connection.run_sync(looks)


def enforcing(file: Path) -> AsyncEngine:
    """An application's engine, whose connections enforce foreign keys."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}", connect_args={"timeout": 0.1})

    @event.listens_for(engine.sync_engine, "connect")
    def _enforce(connection: Any, record: object) -> None:
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


async def test_foreign_keys_are_on_again_after_a_commit_that_a_reader_blocked(
    file: Path, tmp_path: Path
) -> None:
    file.parent.mkdir()
    write(file, "CREATE TABLE t (id)")
    engine = enforcing(file)
    backend = SQLite(Access(Target(engine, tmp_path)))

    def commit(connection: Connection) -> None:
        undo = backend.sessions.adopt(connection)
        try:
            with connection.begin():
                connection.execute(text("INSERT INTO t VALUES (1)"))
        finally:
            undo()

    async with engine.connect() as connection:
        with closing(sqlite3.connect(file, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM t").fetchall()
            with pytest.raises(OperationalError, match="locked"):
                await connection.run_sync(commit)
        rows = (await connection.exec_driver_sql("PRAGMA foreign_keys")).all()

    assert [tuple(row) for row in rows] == [(1,)]
    await engine.dispose()


@pytest.mark.parametrize("mode", ["off", "memory"])
async def test_a_transaction_has_a_journal_on_the_disk_where_the_application_does_without(
    mode: str, file: Path, tmp_path: Path
) -> None:
    file.parent.mkdir()
    write(
        file,
        "CREATE TABLE t (x)",
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
        "WHERE i < 5000) SELECT randomblob(1000) FROM n",
    )
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")

    @event.listens_for(engine.sync_engine, "connect")
    def _without(connection: Any, record: object) -> None:
        connection.execute(f"PRAGMA journal_mode={mode}")

    backend = SQLite(Access(Target(engine, tmp_path)))

    def half(connection: Connection) -> None:
        undo = backend.sessions.adopt(connection)
        with connection.begin() as transaction:
            # more than its cache holds
            connection.execute(text("UPDATE t SET x = zeroblob(900)"))
            assert file.with_name("app.db-journal").exists()
            transaction.rollback()
        undo()

    async with engine.connect() as connection:
        await connection.run_sync(half)
        rows = (await connection.exec_driver_sql("PRAGMA journal_mode")).all()

    assert [tuple(row) for row in rows] == [(mode,)]
    assert read(file, "SELECT count(*) FROM t WHERE length(x) = 1000") == [(5000,)]
    await engine.dispose()


async def test_looking_for_debris_waits_for_a_writer(backend: SQLite, file: Path) -> None:
    await backend.create()
    write(file, 'CREATE TABLE "_alembic_tmp_t" (id)')
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        looking = asyncio.create_task(backend.debris())
        await asyncio.sleep(0.1)
        writer.execute("COMMIT")
    assert len(await looking) == 1


async def test_a_snapshot_is_restored_and_the_journal_closed(backend: SQLite, file: Path) -> None:
    await backend.create()
    stamped(file, "r1")
    write(file, "CREATE TABLE users (id)", "INSERT INTO users VALUES (7)")
    snapshot = await held(backend).snapshots.take("s1", ("r1",), ("r2",), TABLES)
    assert (await backend.look(TABLES)).unfinished
    write(file, "DROP TABLE users")
    await held(backend).snapshots.restore(snapshot)
    assert read(file, "SELECT id FROM users") == [(7,)]
    await held(backend).close_journal()
    assert not (await backend.look(TABLES)).unfinished


async def test_the_next_start_undoes_what_a_killed_one_left(
    backend: SQLite, file: Path, tmp_path: Path
) -> None:
    await backend.create()
    stamped(file, "r1")
    write(file, "CREATE TABLE users (id)", "INSERT INTO users VALUES (7)")
    await held(backend).snapshots.take("s1", ("r1",), ("r3",), TABLES)
    stamped(file, "r2")
    write(file, "DROP TABLE users")
    next_start = SQLite(Access(Target(f"sqlite:///{file}", tmp_path)))
    assert "put back" in (await held(next_start).recover() or "")
    assert read(file, "SELECT id FROM users") == [(7,)]
    assert journal.read(file) is None


async def test_the_next_start_keeps_later_writes_when_a_kill_had_undone_the_migration(
    backend: SQLite, file: Path, tmp_path: Path
) -> None:
    await backend.create()
    stamped(file, "r1")
    write(file, "CREATE TABLE users (id)")
    await held(backend).snapshots.take("s1", ("r1",), ("r2",), TABLES, atomic=True)
    write(file, "INSERT INTO users VALUES (8)")
    next_start = SQLite(Access(Target(f"sqlite:///{file}", tmp_path)))
    assert "changed nothing" in (await held(next_start).recover() or "")
    assert read(file, "SELECT id FROM users") == [(8,)]


async def test_the_next_start_undoes_changes_of_rows_alone_that_a_killed_one_had_committed(
    backend: SQLite, file: Path
) -> None:
    await backend.create()
    stamped(file, "r1")
    write(file, "CREATE TABLE users (id)", "INSERT INTO users VALUES (1)")
    await held(backend).snapshots.take("s1", ("r1",), ("r2",), TABLES)
    assert "changed nothing" in (await held(SQLite(backend.access)).recover() or "")
    await held(backend).snapshots.take("s2", ("r1",), ("r2",), TABLES)
    write(file, "DELETE FROM users")
    assert "put back" in (await held(SQLite(backend.access)).recover() or "")
    assert read(file, "SELECT id FROM users") == [(1,)]


async def test_a_restore_at_the_next_start_keeps_the_data_it_replaces(
    backend: SQLite, file: Path, tmp_path: Path
) -> None:
    await backend.create()
    stamped(file, "r1")
    await held(backend).snapshots.take("s1", ("r1",), ("r2",), TABLES)
    write(file, "CREATE TABLE half (x)", "INSERT INTO half VALUES ('written since')")
    said = await held(SQLite(backend.access)).recover()
    (kept,) = file.parent.glob("*.replaced-*")
    assert said is not None and str(kept) in said
    assert read(kept, "SELECT x FROM half") == [("written since",)]
    assert read(file, "SELECT name FROM sqlite_master WHERE name = 'half'") == []


async def test_the_journal_knows_which_version_tables_it_is_about(
    backend: SQLite, file: Path
) -> None:
    await backend.create()
    write(file, "CREATE TABLE mine (version_num)", "INSERT INTO mine VALUES ('r1')")
    await held(backend).snapshots.take("s1", ("r1",), ("r2",), [VersionTable("mine")])
    write(file, "UPDATE mine SET version_num = 'r2'", "CREATE TABLE users (id)")
    assert "had ended at r2" in (await held(SQLite(backend.access)).recover() or "")
    assert read(file, "SELECT * FROM users") == []


async def test_statistics_of_an_optimiser_are_no_change_of_the_schema(
    backend: SQLite, file: Path
) -> None:
    await backend.create()
    stamped(file, "r1")
    write(file, "CREATE TABLE users (id)", "CREATE INDEX ix ON users (id)")
    write(file, "INSERT INTO users VALUES (1)")
    await held(backend).snapshots.take("s1", ("r1",), ("r2",), TABLES, atomic=True)
    write(file, "INSERT INTO users VALUES (2)", "ANALYZE")
    assert "changed nothing" in (await held(SQLite(backend.access)).recover() or "")
    assert read(file, "SELECT id FROM users") == [(1,), (2,)]


async def test_a_copy_that_cannot_be_read_is_never_taken_for_a_damaged_database(
    backend: SQLite, file: Path, tmp_path: Path
) -> None:
    await backend.create()
    stamped(file, "r1")
    snapshot = await held(backend).snapshots.take("s1", ("r1",), ("r2",), TABLES)
    write(file, "CREATE TABLE half (x)")
    write_text(Path(snapshot.place), "no database at all" * 100)
    with pytest.raises(RefusedError, match="was not touched") as refused:
        await held(SQLite(backend.access)).recover()
    # what the core makes of it must not let a purge act
    kind = diagnose(
        refused.value,
        Target(f"sqlite:///{file}", tmp_path),
        backend,
        Left(),
        attempt=1,
        otherwise="unreachable",
    ).kind
    assert kind == "unreachable"
    assert read(file, "SELECT * FROM half") == []


async def test_a_repair_that_is_killed_at_its_end_leaves_nothing_that_no_start_removes(
    backend: SQLite, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one may find the database at its heads, and looks no further without a journal."""
    await backend.create()
    stamped(file, "r1")
    side = file.with_name(f"{file.name}.side-20260101T000000000000Z")
    stamped(side, "r2")
    half = file.with_name(f"{file.name}.purged-20260101T000000Z.partial")
    half.touch()
    journal.write(file, journal.Entry("restoring", ("r2",), ("r2",), str(side), 1.0))

    def killed(file: Path) -> None:
        assert not side.exists() and not half.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "clear", killed)
    with pytest.raises(KeyboardInterrupt):
        await recover.recover(file)
    monkeypatch.undo()
    told = await recover.recover(file)
    assert isinstance(told, Replaced) and "the old data is in " in told
    assert journal.read(file) is None and read(file, "SELECT * FROM alembic_version") == [("r2",)]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux tells what is open")
async def test_a_target_that_is_left_to_the_next_start_has_no_file_open(
    backend: SQLite, file: Path
) -> None:
    await backend.create()
    stamped(file, "r1")
    engine = backend.engine()
    snapshot = await held(backend).snapshots.take("s1", ("r1",), ("r2",), TABLES)
    await asyncio.to_thread(Path(snapshot.place).unlink)
    with pytest.raises(RefusedError, match="is gone"):
        await held(backend).snapshots.restore(snapshot)
    assert file in open_files()
    await held(backend).snapshots.let_go()
    await backend.release(engine)
    assert file not in open_files() and (await backend.look(TABLES)).unfinished


def open_files() -> set[Path]:
    return {Path(os.path.realpath(each)) for each in Path("/proc/self/fd").iterdir()}


async def test_files_that_only_look_like_ours_stay(backend: SQLite, file: Path) -> None:
    await backend.create()
    theirs = file.with_name(f"{file.name}.side-project-export.sqlite")
    theirs.write_text("theirs")
    await held(backend).recover()
    assert theirs.read_text() == "theirs"


async def test_databases_of_one_name_may_keep_their_copies_in_one_folder(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    backends = []
    for name in ("one", "two"):
        file = tmp_path / name / "app.db"
        backend = SQLite(Access(Target(f"sqlite:///{file}", tmp_path)))
        await backend.create()
        stamped(file, "r1")
        await held(backend).snapshots.take(
            "s1", ("r1",), ("r2",), TABLES, SnapshotOptions(folder=copies)
        )
        backends.append(backend)
    assert len(list(copies.iterdir())) == 2
    assert await held(backends[1]).snapshots.prune(Limits(1), copies) == ()
    assert len(list(copies.iterdir())) == 2


async def test_a_side_database_takes_over_and_the_old_one_is_set_aside(
    backend: SQLite, file: Path
) -> None:
    await backend.create()
    write(file, "CREATE TABLE old (id)")
    async with held(backend).sides.fresh("s2") as side:
        stamped(Path(side.place), "r9")
        aside = await held(backend).sides.take_over(side, "s2", TABLES)
    assert aside is not None
    assert read(Path(aside), "SELECT name FROM sqlite_master") == [("old",)]
    assert (await backend.look(TABLES)).all_heads() == ("r9",)
    assert not list(file.parent.glob("*.side-*"))


async def test_a_clock_that_goes_back_costs_nothing_that_this_run_has_set_aside(
    backend: SQLite, file: Path
) -> None:
    await backend.create()
    later = file.with_name(f"{file.name}.purged-21000101T000000000000Z")
    with closing(sqlite3.connect(later)) as earlier_run:
        earlier_run.execute("CREATE TABLE older (id)")
    async with held(backend).sides.fresh("s2") as side:
        stamped(Path(side.place), "r9")
        aside = await held(backend).sides.take_over(side, "s2", TABLES)
    assert await held(backend).sides.prune_set_aside(Limits(1)) == ()
    left = {path.name for path in file.parent.glob("*.purged-*")}
    assert aside is not None and left == {Path(aside).name, later.name}


async def test_connections_of_another_encoding_see_the_side_that_takes_over(
    backend: SQLite, file: Path
) -> None:
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as open_one:
        open_one.execute("PRAGMA encoding='UTF-16'")
        open_one.execute("CREATE TABLE old (id)")
        async with held(backend).sides.fresh("s") as side:
            stamped(Path(side.place), "r9")
            await held(backend).sides.take_over(side, "s", TABLES)
        assert open_one.execute("SELECT * FROM alembic_version").fetchall() == [("r9",)]


async def test_a_side_database_that_is_cancelled_as_it_is_made_does_not_come_later(
    backend: SQLite, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = sides.fresh

    def slowly(place: Path, like: Path, cancelled: Callable[[], bool]) -> None:
        time.sleep(0.1)
        fresh(place, like, cancelled)

    async def build() -> None:
        async with held(backend).sides.fresh("1"):
            await asyncio.sleep(60)

    monkeypatch.setattr(sides, "fresh", slowly)
    file.parent.mkdir(parents=True)
    stamped(file, "r1")
    building = asyncio.create_task(build())
    await asyncio.sleep(0.02)
    building.cancel()

    with pytest.raises(asyncio.CancelledError):
        await building

    await asyncio.sleep(0.2)
    assert [path.name for path in file.parent.iterdir()] == ["app.db"]


async def refused_replacement(backend: SQLite, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A side database that cannot take over, as somebody writes."""
    monkeypatch.setattr(overwrite, "WAIT_S", 0.1)
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        async with held(backend).sides.fresh("s1") as side:
            stamped(Path(side.place), "r2")
            with pytest.raises(RefusedError, match="not changed.*not touched"):
                await held(backend).sides.take_over(side, "s1", TABLES)


async def test_a_replacement_that_a_writer_blocks_is_refused_and_forgotten(
    backend: SQLite, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.create()
    stamped(file, "r1")
    await refused_replacement(backend, file, monkeypatch)
    assert not (await backend.look(TABLES)).unfinished
    assert await held(backend).recover() is None
    assert (await backend.look(TABLES)).all_heads() == ("r1",)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


async def test_a_replacement_that_is_refused_leaves_the_journal_of_the_snapshot(
    backend: SQLite, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.create()
    stamped(file, "r1")
    await held(backend).snapshots.take("20260101T000000000000Z", ("r1",), ("r2",), TABLES)
    write(file, "CREATE TABLE half_way (id)")
    await refused_replacement(backend, file, monkeypatch)
    assert "put back" in (await held(backend).recover() or "")  # as the start after a kill does
    assert read(file, "SELECT name FROM sqlite_master") == [("alembic_version",)]


@pytest.mark.parametrize("given", ["engine", "url"])
async def test_a_side_of_a_database_named_by_a_uri_is_where_it_says(
    given: str, file: Path, tmp_path: Path
) -> None:
    file.parent.mkdir()
    stamped(file, "r1")
    url = f"sqlite+aiosqlite:///{file.as_uri()}?uri=true&mode=rw&cache=private"
    database = create_async_engine(url) if given == "engine" else url
    backend = SQLite(Access(Target(database, tmp_path)))

    for made in (held(backend).sides.fresh("1"), held(backend).sides.copy("2")):
        async with made as side, side.engine.begin() as connection:
            await connection.exec_driver_sql("CREATE TABLE made (id)")
            await connection.commit()
            tables = read(Path(side.place), "SELECT name FROM sqlite_master WHERE name = 'made'")
            assert tables == [("made",)]

    assert [path.name for path in file.parent.iterdir()] == ["app.db"]


async def test_no_copy_is_made_to_be_migrated_where_another_file_would_be_changed_with_it(
    file: Path, tmp_path: Path
) -> None:
    file.parent.mkdir()
    stamped(file, "r1")
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")

    @event.listens_for(engine.sync_engine, "connect")
    def _attach(connection: Any, record: object) -> None:
        connection.execute(f"ATTACH '{tmp_path / 'other.db'}' AS other")
        connection.execute("CREATE TABLE IF NOT EXISTS other.t (id)")

    backend = SQLite(Access(Target(engine, tmp_path)))
    with pytest.raises(RefusedError, match=r"attaches other \("):
        async with held(backend).sides.copy("1"):
            pass
    assert [path.name for path in file.parent.iterdir()] == ["app.db"]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:///app.db", "app.db"),
        ("sqlite:///file:app.db", "file:app.db"),
        ("sqlite:///app.db?mode=memory", "app.db"),
        ("sqlite:///file:app.db?uri=true&mode=rw", "app.db"),
        ("sqlite:///file:a%2523b%2520c.db?uri=true", "a#b c.db"),
        ("sqlite:///file:app.db?uri=true&mode=memory&cache=shared", None),
        ("sqlite:///file:/app?uri=true&vfs=memdb", None),
        ("sqlite:///file::memory:?uri=true", None),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
    ],
)
def test_a_url_names_the_file_that_sqlalchemy_opens(url: str, name: str | None) -> None:
    assert file_of(make_url(url)) == (Path.cwd() / name if name else None)


async def test_only_the_newest_snapshots_are_kept(backend: SQLite, file: Path) -> None:
    await backend.create()
    write(file, "CREATE TABLE t (id)")
    stamps = [f"20260{month}01T120000000000Z" for month in (1, 2, 3)]
    for stamp in stamps:
        write(file, f"INSERT INTO t VALUES ('{stamp}')")
        await held(backend).snapshots.take(stamp, (), ("r1",), TABLES)
    assert [Path(p).name for p in await held(backend).snapshots.prune(Limits(2))] == [
        f"app.db.snapshot-{stamps[0]}"
    ]
    assert len(list(file.parent.glob("*.snapshot-*"))) == 2


async def test_memory_needs_the_applications_engine_and_is_never_copied(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        SQLite(Access(Target("sqlite://", tmp_path)))
    app = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    backend = SQLite(Access(Target(app, tmp_path)))
    assert (await backend.look(TABLES)).exists
    async with backend.lock(TABLES, 1, lambda *_: None) as hold:
        assert (hold.snapshots, hold.sides) == (None, None)
    await app.dispose()
