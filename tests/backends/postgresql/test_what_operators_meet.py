"""Servers as operators have them: roles with few rights, upgraded images, logical replication."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url
from support.notes_application import GOOD, HALF_WAY, ROWS, UNIQUE, Application
from support.postgres_backends import TABLES, Do, beside, made, silent
from support.postgres_server import Server
from support.small_disk import small_disk

from automigrator import MigrationError, Migrator, RefusedError
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.errors import JudgedError

needs_programs = pytest.mark.skipif(shutil.which("pg_dump") is None, reason="needs pg_dump")


@pytest.fixture
def application(tmp_path: Path, postgres_url: str) -> Application:
    return Application(tmp_path, postgres_url)


class TestARoleWithCreatedbOnly:
    """It may create databases, and has no right to name a tablespace, pg_default neither."""

    @pytest.fixture
    def url(self, postgres_server: Server, live: str, role: str, do: Do) -> str:
        postgres_server.execute(f"alter role {role} createdb")
        postgres_server.execute(f"alter database {live} owner to {role}")
        do("create table users (id int)", f"alter table users owner to {role}")
        return (
            make_url(postgres_server.url(live))
            .set(username=role)
            .render_as_string(hide_password=False)
        )

    async def test_a_fresh_database_is_made_and_takes_the_targets_place(
        self, url: str, live: str, postgres_server: Server
    ) -> None:
        async with made(url).lock(TABLES, 5, silent) as hold, hold.sides.fresh("s1") as side:
            await hold.sides.take_over(side, "s1", TABLES)
        assert beside(postgres_server, live) == ["purged"]

    @pytest.mark.long("[dump")
    @needs_programs
    @pytest.mark.parametrize("how", ["template", "dump"])
    async def test_it_is_copied_both_ways(self, url: str, how: str) -> None:
        async with (
            made(url).lock(TABLES, 5, silent) as hold,
            hold.sides.copy("s1", SnapshotOptions(how=how)) as side,
            side.engine.connect() as connection,
        ):
            await connection.exec_driver_sql("select * from users")

    async def test_the_target_in_a_tablespace_of_its_own_needs_the_right_to_it(
        self, url: str, live: str, role: str, postgres_server: Server, tablespace: str
    ) -> None:
        postgres_server.execute(f"alter database {live} set tablespace {tablespace}")
        async with made(url).lock(TABLES, 5, silent) as hold:
            with pytest.raises(RefusedError, match="permission denied for tablespace"):
                async with hold.sides.fresh("s1"):
                    pass
            postgres_server.execute(f"grant create on tablespace {tablespace} to {role}")
            async with hold.sides.fresh("s1") as side:
                query = (
                    "select spcname from pg_tablespace t join pg_database d "
                    "on d.dattablespace = t.oid where datname = $1"
                )
                assert postgres_server.execute(query, side.place) == [(tablespace,)]

    @pytest.fixture
    def tablespace(self, postgres_server: Server, live: str) -> Iterator[str]:
        postgres_server.execute("set allow_in_place_tablespaces = on")
        try:
            postgres_server.execute(f"create tablespace {live} location ''")
        except Exception:  # noqa: BLE001
            pytest.skip("no tablespace can be made here")
        yield live
        postgres_server.drop_all(live)
        postgres_server.execute(f"drop tablespace {live}")


class TestAnotherVersionOfTheCollation:
    """An upgraded image brings other libraries; the server makes no template copy then."""

    @pytest.fixture
    def upgraded(self, postgres_server: Server) -> Callable[[str], None]:
        if postgres_server._version() < 15:
            pytest.skip("notes no version of the collation")

        def upgrade(database: str) -> None:
            sql = "update pg_database set datcollversion = '0.1' where datname = $1"
            postgres_server.execute(sql, database)

        return upgrade

    async def test_a_template_copy_is_refused_with_the_commands(
        self, backend: PostgreSQL, filled: str, upgraded: Callable[[str], None]
    ) -> None:
        upgraded(filled)
        async with backend.lock(TABLES, 5, silent) as hold:
            with pytest.raises(RefusedError, match=f'REINDEX DATABASE "{filled}".*REFRESH COLLA'):
                await hold.snapshots.take(
                    "s1", ("r1",), ("r2",), TABLES, SnapshotOptions(how="template")
                )

    @pytest.mark.long
    @needs_programs
    async def test_a_dump_is_made_instead_and_restored(
        self, application: Application, upgraded: Callable[[str], None], live: str, tmp_path: Path
    ) -> None:
        application.deploy(HALF_WAY)
        upgraded(live)
        with pytest.raises(MigrationError) as caught:
            await application.start(("backup-restore", {"folder": tmp_path / "dumps"}))
        assert caught.value.report.targets[0].failures[0].revision == "r2"
        assert application.notes() == ROWS

    @pytest.mark.long
    @needs_programs
    async def test_a_rehearsal_copies_by_dump(
        self, application: Application, upgraded: Callable[[str], None], live: str
    ) -> None:
        application.deploy(GOOD)
        upgraded(live)
        report = await Migrator(application.target(), mode="migrate", rehearse=True).run()
        assert report.outcome == "migrated" and report.targets[0].rehearsed_s is not None

    async def test_a_database_that_cannot_be_created_is_told_with_the_command(
        self, postgres_server: Server, postgres_name: str, upgraded: Callable[[str], None]
    ) -> None:
        upgraded("template1")
        try:
            with pytest.raises(JudgedError) as caught:
                await made(postgres_server.url(postgres_name)).create()
        finally:
            sql = (
                "update pg_database set datcollversion = pg_database_collation_actual_version(oid)"
            )
            postgres_server.execute(f"{sql} where datname = 'template1'")
        assert 'ALTER DATABASE "template1" REFRESH COLLATION VERSION' in caught.value.advice


class TestLogicalReplication:
    """Slots and subscriptions stay with the old database when another takes its name."""

    @pytest.fixture
    def slot(self, postgres_server: Server, live: str, do: Do) -> Iterator[str]:
        if postgres_server.execute("show wal_level")[0][0] != "logical":
            pytest.skip("wal_level is not logical")
        do(f"select pg_create_logical_replication_slot('{live}', 'test_decoding')")
        yield f"logical replication slot {live}"
        postgres_server.execute(f"select pg_drop_replication_slot('{live}')")

    @pytest.fixture
    def subscription(self, postgres_server: Server, live: str, do: Do) -> Iterator[str]:
        do(
            f"create subscription {live}_sub connection 'host=127.0.0.1 port=1' publication p "
            "with (connect = false)"
        )
        yield f"subscription {live}_sub"
        for name in postgres_server.databases(live):
            drop = f"alter subscription {live}_sub set (slot_name = none)"
            if postgres_server.execute(
                "select from pg_subscription s join pg_database d on d.oid = s.subdbid "
                "where datname = $1",
                name,
            ):
                postgres_server.execute(drop, database=name)
                postgres_server.execute(f"drop subscription {live}_sub", database=name)

    @pytest.mark.long("[slot")
    @pytest.mark.parametrize("which", ["slot", "subscription"])
    async def test_a_snapshot_that_a_swap_would_restore_is_refused(
        self, application: Application, which: str, request: pytest.FixtureRequest
    ) -> None:
        named = request.getfixturevalue(which)
        application.deploy(HALF_WAY)
        with pytest.raises(MigrationError, match=f"{named} would stay") as caught:
            await application.start("backup-restore")
        assert caught.value.report.targets[0].failures[0].kind == "hook"
        assert (application.heads, application.notes()) == ({"r1"}, ROWS)

    @pytest.mark.long
    @pytest.mark.parametrize("which", ["slot", "subscription"])
    async def test_a_purge_passes_before_it_builds_anything(
        self, application: Application, which: str, request: pytest.FixtureRequest, live: str
    ) -> None:
        named = request.getfixturevalue(which)
        application.deploy(UNIQUE)
        with pytest.raises(MigrationError) as caught:
            await application.start("purge")
        assert any(f"{named} would stay" in each for each in caught.value.report.targets[0].notes)
        assert (application.heads, application.notes()) == ({"r1"}, ROWS)

    @pytest.mark.long
    @needs_programs
    async def test_a_dump_is_restored_in_place_and_the_slot_stays(
        self, application: Application, slot: str, live: str, tmp_path: Path, do: Do
    ) -> None:
        application.deploy(HALF_WAY)
        with pytest.raises(MigrationError):
            await application.start(("backup-restore", {"folder": tmp_path / "dumps"}))
        assert application.notes() == ROWS
        query = "select database::text from pg_replication_slots where slot_name = $1"
        assert do(query.replace("$1", f"'{live}'")) == [(live,)]

    async def test_a_slot_made_meanwhile_refuses_the_restore(
        self, backend: PostgreSQL, filled: str, request: pytest.FixtureRequest, do: Do
    ) -> None:
        async with backend.lock(TABLES, 5, silent) as hold:
            snapshot = await hold.snapshots.take("s1", ("r1",), ("r2",), TABLES)
            do("alter table users add half int")
            named = request.getfixturevalue("slot")
            with pytest.raises(RefusedError, match=f"{named} would stay"):
                await hold.snapshots.restore(snapshot)
            assert len(do("select * from users")[0]) == 2

    @pytest.mark.long
    async def test_what_another_database_replicates_is_no_reason(
        self, application: Application, postgres_server: Server, live: str
    ) -> None:
        if postgres_server.execute("show wal_level")[0][0] != "logical":
            pytest.skip("wal_level is not logical")
        postgres_server.execute(
            f"select pg_create_logical_replication_slot('{live}', 'test_decoding')"
        )
        try:
            application.deploy(GOOD)
            report = await application.start(("backup-restore", {"snapshot": "always"}))
        finally:
            postgres_server.execute(f"select pg_drop_replication_slot('{live}')")
        assert report.outcome == "migrated"


@pytest.mark.long
@needs_programs
async def test_the_room_for_a_dump_may_be_believed_in(application: Application) -> None:
    application.deploy(GOOD)
    with small_disk(8) as folder:
        options = {"snapshot": "always", "copy": "dump", "folder": folder}

        def migrator(**more: bool) -> Migrator:
            target = application.target(**more)
            return Migrator(target, mode="migrate", recovery=[("backup-restore", options)])

        with pytest.raises(MigrationError, match=r"bytes free in .*Target\(check_room=False\)"):
            await migrator().run()
        assert (await migrator(check_room=False).run()).outcome == "migrated"
