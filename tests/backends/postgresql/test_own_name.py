"""A database is what it calls itself: every spelling of it meets at one lock, and one record."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.alembic_projects import heads
from support.pgbouncer import BINARY, pooled
from support.postgres_backends import TABLES, Do, beside, made, silent, stamped
from support.postgres_server import Server

from automigrator import Migrator, Target
from automigrator.backends.contract.record import Record
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.backends.postgresql.dump import files
from automigrator.backends.postgresql.locking import advisory
from automigrator.backends.postgresql.notes import note_name
from automigrator.errors import LockLostError, LockTimeoutError, RefusedError
from automigrator.retention import Limits

needs_programs = pytest.mark.skipif(
    shutil.which("pg_dump") is None, reason="no PostgreSQL client programs"
)
pytestmark = pytest.mark.long("?database=", "localhost", "-generic", "others[a ")


def touch(path: Path) -> None:
    path.touch()


needs_pgbouncer = pytest.mark.skipif(BINARY is None, reason="pgbouncer is not installed")


@pytest.fixture(
    params=[
        "?database=",
        "PGDATABASE",
        "localhost",
        "a creator",
        pytest.param("a pooler's alias", marks=needs_pgbouncer),
    ]
)
def spelled(
    request: pytest.FixtureRequest,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    pooler_folder: Path,
) -> Iterator[Any]:
    """Another way to reach the database of `postgres_url`."""
    url = make_url(postgres_url)
    match request.param:
        case "?database=":
            yield url.set(database="postgres").update_query_dict({"database": str(url.database)})
        case "PGDATABASE":
            monkeypatch.setenv("PGDATABASE", str(url.database))
            yield postgres_url.removesuffix(f"/{url.database}")
        case "localhost":
            yield url.set(host="localhost")
        case "a creator":
            yield by_creator(postgres_url)
        case _:
            with pooled(postgres_url, pooler_folder, "session", alias="another") as through:
                yield through


def by_creator(url: str) -> Any:
    """An engine as the connectors of the clouds make it."""
    dsn = url.replace("+asyncpg", "")
    return create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn), poolclass=NullPool
    )


class TestEverySpelling:
    @pytest.mark.long("a creator", "a pooler")
    async def test_meets_at_one_lock(
        self, spelled: Any, backend: PostgreSQL, postgres_url: str, live: str
    ) -> None:
        for first, second in ((backend, made(spelled)), (made(spelled), made(postgres_url))):
            async with first.lock(TABLES, 5, silent) as hold:
                assert hold.database == live
                with pytest.raises(
                    LockTimeoutError, match=f"database '{live}'.*PostgreSQL session"
                ):
                    async with second.lock(TABLES, 0.2, silent):
                        pass
            async with second.lock(TABLES, 5, silent):
                pass

    async def test_finds_the_record_and_the_copies_of_the_others(
        self, spelled: Any, backend: PostgreSQL, postgres_url: str, filled: str
    ) -> None:
        async with backend.lock(TABLES, 5, silent) as hold:
            await hold.snapshots.take("20300101T000000Z", ("r1",), ("r2",), TABLES)
            await hold.leave(Record("plan", "failed", "somebody"))
        other = made(spelled)
        assert (await other.look(TABLES)).unfinished
        assert (await other.look(TABLES, heads_only=True)).unfinished
        examiner = other.examiner(TABLES)
        assert getattr(await examiner.record(), "leader", None) == "somebody"
        async with other.lock(TABLES, 5, silent) as hold:
            assert getattr(await hold.last(), "leader", None) == "somebody"
            if hold.apart:
                assert "changed nothing" in (await hold.recover() or "")
            else:  # never passed over where it cannot be put back
                with pytest.raises(RefusedError, match="maintenance_database="):
                    await hold.recover()

    async def test_is_created_where_only_the_surroundings_name_it(
        self, postgres_server: Server, postgres_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGDATABASE", postgres_name)
        backend = made(postgres_server.url(postgres_name).removesuffix(f"/{postgres_name}"))
        assert not (await backend.look(TABLES)).exists
        assert await backend.create()
        assert (await backend.look(TABLES)).exists
        assert postgres_name in postgres_server.databases()

    async def test_that_leads_elsewhere_by_now_loses_the_lock(
        self, postgres_server: Server, backend: PostgreSQL, live: str
    ) -> None:
        """As when a pooler's alias is pointed at another database."""
        async with backend.lock(TABLES, 5, silent) as hold:
            other = f"{live}_other"
            await backend.access.let_go()
            postgres_server.execute(f"alter database {live} rename to {other}")
            postgres_server.create(live)
            with pytest.raises(LockLostError, match="leads to database"):
                hold.rule(hold.server, database=other)


class TestWithoutAMaintenanceDatabase:
    @pytest.fixture(params=["a creator", pytest.param("a pooler", marks=needs_pgbouncer)])
    def alone(
        self, request: pytest.FixtureRequest, postgres_url: str, pooler_folder: Path
    ) -> Iterator[Any]:
        """The database, and no way from it to another one."""
        if request.param == "a creator":
            yield by_creator(postgres_url)
        else:
            with pooled(postgres_url, pooler_folder, "session", alias="alone") as url:
                yield url

    @pytest.mark.long("a pooler")
    @pytest.mark.parametrize("kind", ["async", "generic"])
    async def test_it_is_migrated_under_a_lock_in_the_target_and_that_is_noted(
        self,
        alone: Any,
        kind: str,
        live: str,
        postgres_url: str,
        make_target: Callable[..., Target],
    ) -> None:
        database = alone
        if not isinstance(alone, str):
            database = postgres_url  # for the ini, which names what the creator connects to
        target = make_target(kind=kind, database=database)
        target = Target(alone, target.config)
        migrator = Migrator(target, mode="migrate")
        (report,) = (await migrator.run()).targets
        assert report.outcome == "migrated"
        assert any(
            f"held in database '{live}' itself" in each and "maintenance_database=" in each
            for each in report.notes
        )
        assert heads(postgres_url) == {"r3"}
        (again,) = (await migrator.run()).targets
        assert (again.outcome, again.notes) == ("current", ())
        assert (await migrator.check()).current
        assert (await migrator.doctor()).targets[0].record is None

    @pytest.mark.long
    async def test_whole_databases_are_refused_in_words(
        self, alone: Any, filled: str, postgres_server: Server
    ) -> None:
        async with made(alone).lock(TABLES, 5, silent) as hold:
            with pytest.raises(RefusedError, match=r"Target\(maintenance_database="):
                await hold.snapshots.take("20300101T000000Z", ("r1",), ("r2",), TABLES)
        assert beside(postgres_server, filled) == []

    @pytest.mark.long
    @needs_pgbouncer
    async def test_a_pooler_whose_maintenance_database_is_the_target_itself(
        self, postgres_url: str, live: str, pooler_folder: Path
    ) -> None:
        with pooled(postgres_url, pooler_folder, "session", alias="postgres") as url:
            backend = made(url, "postgres")
            async with backend.lock(TABLES, 5, silent) as hold:
                assert (hold.database, hold.apart) == (live, False)


class TestAnOlderRelease:
    """One that locks by the name in the URL."""

    @contextmanager
    def holding(self, server: Server, name: str) -> Iterator[None]:
        (key,) = advisory.keys(name, TABLES)
        server.execute("select pg_advisory_lock($1)", key)
        try:
            yield
        finally:
            server.execute("select pg_advisory_unlock($1)", key)

    @pytest.fixture
    def other_name(self, postgres_url: str, pooler_folder: Path) -> Iterator[tuple[str, str]]:
        if BINARY is None:
            pytest.skip("pgbouncer is not installed")
        with pooled(postgres_url, pooler_folder, "session", alias="another") as url:
            yield url, "another"

    async def test_is_waited_for_and_waits(
        self, other_name: tuple[str, str], postgres_server: Server
    ) -> None:
        url, name = other_name
        with self.holding(postgres_server, name), pytest.raises(LockTimeoutError):
            async with made(url).lock(TABLES, 0.2, silent):
                pass
        (key,) = advisory.keys(name, TABLES)
        engine = create_async_engine(postgres_server.url("postgres"), poolclass=NullPool)
        async with made(url).lock(TABLES, 5, silent), engine.connect() as older:
            assert not await advisory.Turns(older).mine(key)

    @pytest.mark.long
    async def test_cannot_begin_while_a_killed_leader_still_runs(
        self, other_name: tuple[str, str], postgres_server: Server, live: str, postgres_url: str
    ) -> None:
        """It does not know the newer tag, and would not end the session."""
        url, name = other_name
        engine = create_async_engine(postgres_url)
        async with engine.connect() as migrating:
            async with made(url).lock(TABLES, 5, silent) as hold:
                undo = await migrating.run_sync(hold.claim)
                keys = hold.all_keys
            held = "select objid from pg_locks where locktype = 'advisory' and granted"
            (key,) = advisory.keys(name, TABLES)
            assert keys == (*advisory.keys(live, TABLES), key)
            found = [row[0] for row in postgres_server.execute(held, database=live)]
            assert found == [key % 2**32]
            await migrating.run_sync(lambda _: undo())
            assert postgres_server.execute(held, database=live) == []
        await engine.dispose()

    @pytest.mark.long
    async def test_that_left_something_is_understood(
        self, other_name: tuple[str, str], live: str, do: Do
    ) -> None:
        from automigrator.backends.postgresql.notes import write_note

        url, name = other_name
        backend = made(url)
        (key,) = advisory.keys(name, TABLES)
        record = Record("plan", "failed", "an older release", at=5.0)

        async def ready(server: int) -> None:
            """An older release holds the lock of the other name."""

        async with backend.access.connection(autocommit=True) as connection:
            await write_note(connection, "last", key, lambda _: record.dumped(), "x", ready)
        async with backend.lock(TABLES, 5, silent) as hold:
            assert await hold.last() == record
            await hold.leave(Record("plan", "failed", "this one", at=6.0))
            assert getattr(await hold.last(), "leader", "") == "this one"
            await hold.leave(None)
            assert await hold.last() is None

    @pytest.mark.long
    @needs_programs
    async def test_that_was_killed_with_a_dump_is_undone_and_its_dump_is_pruned(
        self,
        other_name: tuple[str, str],
        filled: str,
        do: Do,
        tmp_path: Path,
    ) -> None:
        url, name = other_name
        # the pooler keeps its sessions open
        options = SnapshotOptions(how="dump", folder=tmp_path, disconnect_others=True)
        taken = ("20260101T000000Z", ("r1",), ("r2",), TABLES, options)
        async with made(url).lock(TABLES, 5, silent) as hold:
            own, old = hold.all_keys
            snapshot = await hold.snapshots.take(*taken)
        do(
            f"alter domain {note_name('dump', own)} rename to dump_{old % 2**64:016x}",
            "delete from users",
        )
        assert (await made(url).look(TABLES)).unfinished
        async with made(url).lock(TABLES, 5, silent) as hold:
            assert "put back" in (await hold.recover() or "")
            assert await hold.recover() is None
        assert [tuple(row) for row in do("select id from users")] == [(7,)]
        assert not (await made(url).look(TABLES)).unfinished
        assert f"{filled}__automigrator_snapshot" in snapshot.place
        older = files.path_of(tmp_path, make_url(url), "20250101T000000Z")
        assert name in older.name
        touch(older)
        async with made(url).lock(TABLES, 5, silent) as hold:
            assert await hold.snapshots.prune(Limits(keep=1), tmp_path) == (str(older),)


class TestADeadLeaderOfAnotherRole:
    async def test_is_waited_for_within_the_limit_and_named(
        self, postgres_server: Server, live: str, postgres_url: str, role: str
    ) -> None:
        async with made(postgres_url).lock(TABLES, 5, silent) as hold:
            tag = hold.tag
        url = make_url(postgres_url).set(username=role)
        stamped(postgres_server, live, "r1")
        left = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
        await left.execute(f"set application_name = '{tag}'")
        told: list[str] = []
        try:
            with pytest.raises(LockTimeoutError, match="which this role may not end") as caught:
                async with made(url).lock(TABLES, 0.3, lambda _, who: told.append(who)):
                    pass
            assert f"session {left.get_server_pid()} of role 'postgres'" in str(caught.value)
            assert told and "session" in told[0]
            waiting = asyncio.create_task(self.locked(made(url)))
            await asyncio.sleep(0.2)
            assert not waiting.done()
        finally:
            await left.close()
        await waiting

    async def locked(self, backend: PostgreSQL) -> None:
        async with backend.lock(TABLES, 20, silent):
            pass
