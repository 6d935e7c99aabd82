"""A record, a journal or a database beside the target's is ours by its owner, not by its name.

The attackers have what they need for the name: CREATE on the database, or CREATEDB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from support.attacks import Scene, copy_journal, dump_journal, failed_starts
from support.postgres_backends import TABLES, made, silent

from automigrator import MigrationError
from automigrator.errors import JudgedError, RefusedError
from automigrator.retention import Limits

pytestmark = pytest.mark.long(
    "the_end_of_a_restore", "not_put_in_place[False]", "puts_nothing_back[False]", "[works_with]"
)


class TestADumpsJournal:
    """A comment in the target's database, which says what was begun and has to be undone."""

    @pytest.mark.parametrize("superuser", [True, False])
    async def test_of_a_guest_runs_no_program_and_puts_nothing_back(
        self, scene: Scene, tmp_path: Path, superuser: bool
    ) -> None:
        ran = tmp_path / "ran"
        for name in ("pg_dump", "pg_restore", "psql"):
            (tmp_path / name).write_text(f"#!/bin/sh\nenv > {ran}\necho 'x (PostgreSQL) 15.1'\n")
            (tmp_path / name).chmod(0o755)
        planted = dump_journal(tmp_path, binaries=str(tmp_path))
        domain = await scene.plant_note("dump", planted)
        report = await scene.migrator(scene.superusers_url if superuser else "", n=2).run()
        assert report.outcome == "migrated"
        assert not ran.exists()
        (note,) = (n for n in report[scene.live].notes if domain in n)
        assert f"role {scene.guest!r} has" in note and "counts for nothing" in note
        assert scene.do(f"select obj_description('{domain}'::regtype)") == [(planted,)]

    async def test_of_a_guest_does_not_keep_a_start_with_nothing_to_do_from_its_fast_path(
        self, scene: Scene, tmp_path: Path
    ) -> None:
        await scene.plant_note("dump", dump_journal(tmp_path))
        engine = create_async_engine(scene.url)
        migrator = scene.migrator(engine)
        for _ in range(2):  # on a connection of our own, then on one that lies idle
            report = await migrator.run()
            assert (report.outcome, report[scene.live].attempts) == ("current", 0)
            async with engine.connect():
                pass
        status = (await migrator.check())[scene.live]
        assert status.current and "counts for nothing" in str(status)
        assert (await migrator.doctor())[scene.live].healthy
        await engine.dispose()

    async def test_of_a_role_that_could_have_migrated_refuses_the_start_and_names_both_ways_out(
        self, scene: Scene, tmp_path: Path
    ) -> None:
        scene.do(f"grant insert on alembic_version to {scene.guest}")
        domain = await scene.plant_note("dump", dump_journal(tmp_path))
        migrator = scene.migrator(n=2)
        status = (await migrator.check())[scene.live]
        assert status.unfinished and "DROP DOMAIN" in str(status)
        with pytest.raises(MigrationError) as refused:
            await migrator.run()
        text = str(refused.value)
        assert f"ALTER DOMAIN {domain} OWNER TO" in text and f"DROP DOMAIN {domain}" in text
        assert scene.do("select version_num from alembic_version") == [("r1",)]
        scene.do(f"drop domain {domain}", "drop schema automigrator")
        assert (await migrator.run()).outcome == "migrated"

    async def test_lies_in_a_schema_of_ours_or_is_not_written(self, scene: Scene) -> None:
        await scene.plant(
            "create schema automigrator", "grant all on schema automigrator to public"
        )
        async with made(scene.url).lock(TABLES, 5, silent) as hold:
            with pytest.raises(RefusedError, match=f"schema automigrator .* role '{scene.guest}'"):
                await hold.write_note("dump", hold.key, lambda _: "ours")  # type: ignore[attr-defined]

    async def test_of_ours_in_a_guests_schema_refuses_the_start(
        self, scene: Scene, tmp_path: Path
    ) -> None:
        """It may be one that the guest has kept back since, or has brought again."""
        await scene.plant_note("dump", dump_journal(tmp_path), role=scene.app)
        scene.do(f"alter schema automigrator owner to {scene.guest}")
        assert (await made(scene.url).look(TABLES)).unfinished
        async with made(scene.url).lock(TABLES, 5, silent) as hold:
            with pytest.raises(RefusedError, match="ALTER SCHEMA automigrator OWNER TO"):
                await hold.recover()

    async def test_follows_no_path_but_one_of_a_dump_of_ours(
        self, scene: Scene, tmp_path: Path
    ) -> None:
        text = dump_journal(tmp_path, path="/etc/passwd")
        await scene.plant_note("dump", text, role=scene.app)
        async with made(scene.url).lock(TABLES, 5, silent) as hold:
            with pytest.raises(RefusedError, match="no name of a dump of ours.*DROP DOMAIN"):
                await hold.recover()


class TestADatabaseBeside:
    """It may be a copy that has to be put back, or one to be renamed, dropped or counted."""

    @pytest.fixture(autouse=True)
    def may_create(self, scene: Scene) -> None:
        scene.server.execute(f"alter role {scene.guest} createdb")
        scene.server.execute(f"alter role {scene.app} createdb")

    @pytest.mark.parametrize("superuser", [True, False])
    async def test_of_a_guest_with_an_open_journal_is_not_put_in_place(
        self, scene: Scene, superuser: bool
    ) -> None:
        planted = await scene.plant_database("snapshot", comment=copy_journal())
        url = scene.superusers_url if superuser else scene.url
        report = await scene.migrator(url, n=2).run()
        assert report.outcome == "migrated"
        assert any(planted in note and scene.guest in note for note in report[scene.live].notes)
        assert scene.do("select name from users") == [("one of ours",)]
        assert len(scene.databases()) == 1

    async def test_of_a_guest_is_neither_dropped_renamed_counted_nor_pruned(
        self, scene: Scene
    ) -> None:
        for kind in ("side", "replaced", "undone", "purged"):
            await scene.plant_database(kind)
        for year in ("2098", "2099"):
            await scene.plant_database("snapshot", f"{year}0101T000000000000Z")
        planted = scene.databases()
        backend = made(scene.superusers_url)
        assert not (await backend.look(TABLES)).unfinished
        assert await backend.examiner(TABLES).copies() == ()
        async with backend.lock(TABLES, 5, silent) as hold:
            (note,) = hold.notes
            assert scene.guest in note and "and 1 more" in note
            assert await hold.recover() is None
            own = await hold.snapshots.take("20260301T000000Z", ("r1",), ("r2",), TABLES)
            await hold.close_journal()
            hold.snapshots.own.clear()
            assert await hold.snapshots.prune(Limits(keep=1)) == ()
            assert await hold.snapshots.prune_replaced(Limits(keep=1)) == ()
            assert await hold.sides.prune_set_aside(Limits(keep=1)) == ()
        assert {*scene.databases()} == {*planted, own.place.split("_automigrator_")[1]}
        (copy,) = await backend.examiner(TABLES).copies()
        assert copy.place == own.place

    async def test_of_a_guest_that_has_the_name_of_what_a_restore_needs_stops_it_before_it_begins(
        self, scene: Scene
    ) -> None:
        async with made(scene.superusers_url).lock(TABLES, 5, silent) as hold:
            await hold.snapshots.take(STAMP_OF_OURS, ("r1",), ("r2",), TABLES)
        scene.do("create table half ()")
        planted = await scene.plant_database("replaced", STAMP_OF_OURS)
        async with made(scene.superusers_url).lock(TABLES, 5, silent) as hold:
            with pytest.raises(RefusedError, match=f"belongs to role '{scene.guest}'"):
                await hold.recover()
        assert scene.do("select to_regclass('half')::text") == [("half",)]
        scene.server.drop(planted)
        async with made(scene.superusers_url).lock(TABLES, 5, silent) as hold:
            assert "put back" in (await hold.recover() or "")

    async def test_of_a_guest_does_not_pass_for_the_end_of_a_restore_that_was_killed(
        self, scene: Scene
    ) -> None:
        async with made(scene.superusers_url).lock(TABLES, 5, silent) as hold:
            copy = await hold.snapshots.take(STAMP_OF_OURS, ("r1",), ("r2",), TABLES)
        scene.server.execute(
            f"do $$ begin execute format('comment on database \"{copy.place}\" is %L', replace("
            f"(select shobj_description(oid, 'pg_database') from pg_database where datname = "
            f"'{copy.place}'), 'migrating', 'restoring')); end $$"
        )
        scene.do("create table half ()")
        await scene.plant_database("replaced", STAMP_OF_OURS)
        async with made(scene.superusers_url).lock(TABLES, 5, silent) as hold:
            with pytest.raises(RefusedError, match="it is not ours"):
                await hold.recover()

    async def test_of_a_guest_does_not_keep_a_new_database_from_being_created(
        self, scene: Scene
    ) -> None:
        await scene.plant_database("snapshot")
        scene.server.drop(scene.live)
        # a superuser may act for whoever owned the database, so it asks
        with pytest.raises(JudgedError, match=rf"of role '{scene.guest}'\)"):
            await made(scene.superusers_url).create()
        assert await made(scene.url).create()


STAMP_OF_OURS = "20260201T000000Z"


class TestARecord:
    """What earlier leaders left: failures that count, and which older code works."""

    @pytest.mark.parametrize("kind", ["last", "works_with"])
    async def test_of_a_guest_counts_for_nothing_and_is_named(
        self, scene: Scene, kind: Any
    ) -> None:
        text = (
            failed_starts(99)
            if kind == "last"
            else '[{"heads": ["r1"], "floors": [], "revisions": []}]'
        )
        domain = await scene.plant_note(kind, text)
        backend = made(scene.url)
        examiner = backend.examiner(TABLES)
        assert await examiner.record() is None and await examiner.declared() == ()
        async with backend.lock(TABLES, 5, silent) as hold:
            assert await hold.last() is None
            assert any(domain in note and scene.guest in note for note in hold.notes)
            with pytest.raises(RefusedError, match="belongs to role"):
                await hold.write_note(kind, hold.key, lambda _: "ours")
            await hold.write_note(kind, hold.key, lambda _: None)
        assert scene.owner_of(kind) == scene.guest

    async def test_that_cannot_be_kept_prevents_no_start(self, scene: Scene) -> None:
        await scene.plant_note("last", failed_starts(99))
        report = await scene.migrator(n=2).run()
        assert report.outcome == "migrated"
        assert "failed starts are not counted here" in str(report)

    async def test_of_a_group_of_readers_is_nobodys_proof(self, scene: Scene) -> None:
        """Whoever is in the group may act as it."""
        group = scene.roles.make()
        scene.server.execute(f"grant {group} to {scene.app}, {scene.guest}")
        await scene.plant_note("last", failed_starts(99), group=group)
        assert scene.owner_of("last") == group
        assert await made(scene.url).examiner(TABLES).record() is None
        scene.server.execute(f'grant create on database "{scene.live}" to public')
        try:  # which the group has then as well, and means nothing more
            assert await made(scene.url).examiner(TABLES).record() is None
        finally:
            scene.server.execute(f'revoke create on database "{scene.live}" from public')
