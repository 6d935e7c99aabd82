# ruff: noqa: ASYNC240 - small files, and nothing else runs
"""Snapshots as a person asks for them: listed, taken, put back, deleted."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from compatibility.applications import BREAD, DIES, HALF_WAY, LATE, Deployed
from compatibility.release import Release
from sqlalchemy import make_url
from support.notes_application import BROKEN, GOOD, ROWS

from automigrator import ConfigurationError, Migrator, RefusedError, Restored, Snapshot
from automigrator.errors import LockTimeoutError

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.skipif(shutil.which("pg_dump") is None, reason="no PostgreSQL client programs"),
]

on_sqlite = pytest.mark.parametrize("app", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("app", ["template", "dump"], indirect=True)
by_template = pytest.mark.parametrize("app", ["template"], indirect=True)
KINDS = {"sqlite": "copy", "template": "template", "dump": "dump"}


def migrator(app: Deployed, **options: Any) -> Migrator:
    recovery = [app.backup(**options)]
    return Migrator(app.target(), mode="migrate", recovery=recovery)


def options_of(app: Deployed) -> dict[str, Any]:
    """How `take_snapshot` makes a copy of this kind."""
    options: dict[str, Any] = {} if app.copy == "sqlite" else {"how": app.copy}
    return {**options, "folder": app.dumps} if app.copy == "dump" else options


async def taken(app: Deployed) -> Snapshot:
    return await migrator(app).take_snapshot(**options_of(app))


async def gone_on(app: Deployed) -> Snapshot:
    """A snapshot at r1, a migration to r2, and a note that was written since."""
    snapshot = await taken(app)
    app.deploy(GOOD)
    assert (await migrator(app).run()).outcome == "migrated"
    await asyncio.to_thread(app.write_late)
    return snapshot


async def contents(app: Deployed, place: str | None = None) -> Sequence[Any]:
    read = app.notes if place is None else lambda: app.notes_in(place)
    return await asyncio.to_thread(read)


async def beside(app: Deployed) -> list[Snapshot]:
    return list(await migrator(app).snapshots())


@pytest.mark.long("template", "dump")
class TestList:
    async def test_what_is_kept_is_listed_newest_first_and_nothing_is_changed(
        self, app: Deployed
    ) -> None:
        first = await taken(app)
        app.execute(f"INSERT INTO notes VALUES {LATE}")
        second = await taken(app)

        found = await beside(app)

        assert found == [second, first] == await beside(app)
        assert [(e.kind, e.heads, e.whole) for e in found] == [(KINDS[app.copy], ("r1",), True)] * 2
        assert all(each.size and each.at is not None for each in found)
        assert json.loads(json.dumps(first.to_dict()))["place"] == first.place
        assert f"{first.kind} {first.place}; at r1; " in str(first)

    async def test_the_folder_of_the_strategy_is_looked_in_and_any_other_on_request(
        self, app: Deployed, tmp_path: Path
    ) -> None:
        if app.copy == "template":
            pytest.skip("a template copy lies on the server")
        where = tmp_path / "elsewhere"
        snapshot = await migrator(app).take_snapshot(**{**options_of(app), "folder": where})
        assert await migrator(app).snapshots() == ()
        assert await migrator(app).snapshots(folder=where) == (snapshot,)
        strategy = ("backup-restore", {"folder": str(where)})
        assert await Migrator(app.target(), recovery=[strategy]).snapshots() == (snapshot,)

    @on_sqlite
    async def test_a_copy_that_is_not_whole_is_listed_as_such_and_not_put_back(
        self, app: Deployed
    ) -> None:
        snapshot = await gone_on(app)
        Path(snapshot.place).write_bytes(b"this is no database at all" * 100)

        (found,) = [each for each in await beside(app) if each.place == snapshot.place]

        assert not found.whole and "not a database" in str(found)
        with pytest.raises(RefusedError, match="nothing was changed"):
            await migrator(app).restore_snapshot(snapshot.place)
        assert await contents(app) == [*ROWS, LATE]

    @on_sqlite
    async def test_the_newest_that_is_whole_has_a_name_of_its_own(self, app: Deployed) -> None:
        snapshot = await taken(app)
        app.write_late()
        newest = await taken(app)
        Path(newest.place).write_bytes(b"this is no database at all" * 100)
        assert (await migrator(app).restore_snapshot("newest")).place == snapshot.place
        assert await contents(app) == ROWS


@pytest.mark.long("template", "dump")
class TestTake:
    async def test_it_belongs_to_no_migration_so_the_next_start_undoes_nothing(
        self, app: Deployed
    ) -> None:
        snapshot = await taken(app)
        assert await contents(app, snapshot.place) == ROWS
        assert not (await migrator(app).check()).targets[0].unfinished
        app.write_late()
        assert (await migrator(app).run()).outcome == "current"
        assert await contents(app) == [*ROWS, LATE]

    @pytest.mark.parametrize("app", ["dump"], indirect=True)
    async def test_a_dump_is_made_beside_whoever_works_there(self, app: Deployed) -> None:
        dsn = make_url(app.url).set(drivername="postgresql")
        other = await asyncpg.connect(dsn.render_as_string(hide_password=False))
        try:
            async with other.transaction():
                await other.execute(f"INSERT INTO notes VALUES {LATE}")
                snapshot = await taken(app)
        finally:
            await other.close()
        assert await contents(app, snapshot.place) == ROWS
        assert await contents(app) == [*ROWS, LATE]

    @on_sqlite
    async def test_what_a_killed_process_left_is_ended_before(
        self, new: Release, app: Deployed
    ) -> None:
        app.deploy(HALF_WAY + DIES)
        await asyncio.to_thread(new.killed, app.start_with(app.backup()))
        snapshot = await taken(app)
        assert await contents(app, snapshot.place) == await contents(app) == ROWS


@pytest.mark.long("dump")
class TestRestore:
    async def test_the_copy_is_back_and_what_was_written_since_is_in_what_is_kept(
        self, app: Deployed
    ) -> None:
        snapshot = await gone_on(app)
        told = migrator(app)
        events = told.events()

        restored = await told.restore_snapshot(snapshot.place)

        assert isinstance(restored, Restored)
        assert (restored.before, restored.after) == (("r2",), ("r1",))
        assert (await contents(app), app.heads) == (ROWS, {"r1"})
        assert await contents(app, restored.replaced) == [*ROWS, LATE]
        assert restored.replaced in str(restored) and "from r2 to r1" in str(restored)
        assert json.loads(json.dumps(restored.to_dict()))["replaced"] == restored.replaced
        events.end()
        names = [event.name async for event in events]
        assert names.index("restore-started") < names.index("restored")
        # the next start neither undoes it nor refuses
        assert (await migrator(app).run()).outcome == "migrated"
        assert (await contents(app), app.heads) == (ROWS, {"r2"})


@pytest.mark.long("template", "dump")
class TestWhateverItsState:
    async def test_a_dead_leaders_journal_is_closed_with_it(
        self, new: Release, app: Deployed
    ) -> None:
        snapshot = await taken(app)
        app.write_late()
        app.deploy(HALF_WAY + DIES)
        await asyncio.to_thread(new.killed, app.start_with(app.backup()))
        assert await contents(app) == BREAD  # LATE went with the others

        restored = await migrator(app).restore_snapshot(snapshot.place)

        assert await contents(app) == ROWS
        assert not (await migrator(app).check()).targets[0].unfinished
        if app.copy == "sqlite":
            assert await contents(app, restored.replaced) == BREAD
        app.mended()
        assert (await migrator(app).run()).outcome == "migrated"
        assert await contents(app) == ROWS

    @pytest.mark.long
    @on_sqlite
    async def test_so_is_one_whose_own_copy_is_gone(self, new: Release, app: Deployed) -> None:
        snapshot = await taken(app)
        app.write_late()  # or the migration's copy would be the same, and be left out
        app.deploy(HALF_WAY + DIES)
        await asyncio.to_thread(new.killed, app.start_with(app.backup()))
        for each in await beside(app):
            if each.place != snapshot.place:
                Path(each.place).unlink()
        assert (await asyncio.to_thread(new.run, app.start_with())).outcome == "failed"

        await migrator(app).restore_snapshot(snapshot.place)

        app.mended()
        assert (await migrator(app).run()).outcome == "migrated"
        assert await contents(app) == ROWS

    async def test_a_crash_loop_is_over_after_it(self, new: Release, app: Deployed) -> None:
        snapshot = await taken(app)
        app.deploy(BROKEN)
        await asyncio.to_thread(new.run, app.start_with(max_failed_starts=1))
        loop = await asyncio.to_thread(new.run, app.start_with(max_failed_starts=1))
        assert "at these revisions" in loop.said

        await migrator(app).restore_snapshot(snapshot.place)

        ended = await asyncio.to_thread(new.run, app.start_with(max_failed_starts=1))
        assert "absent" in ended.said and "at these revisions" not in ended.said

    async def test_what_it_kept_can_be_put_back_as_well(self, app: Deployed) -> None:
        snapshot = await gone_on(app)
        first = await migrator(app).restore_snapshot(snapshot.place)
        (kept,) = [e for e in await beside(app) if e.kind in ("replaced", "undone")]
        assert (kept.place, kept.heads) == (first.replaced, ("r2",))

        second = await migrator(app).restore_snapshot(kept.place)

        assert (second.before, second.after) == (("r1",), ("r2",))
        assert await contents(app) == [*ROWS, LATE]
        assert await contents(app, second.place) == [*ROWS, LATE]
        assert (await migrator(app).run()).outcome == "current"

    @on_sqlite
    async def test_a_database_that_is_gone_or_damaged_is_replaced(self, app: Deployed) -> None:
        snapshot = await taken(app)
        live = Path(str(make_url(app.url).database))
        live.write_bytes(b"no database" * 1000)
        restored = await migrator(app).restore_snapshot(snapshot.place)
        assert restored.before is None and ".corrupt-" in restored.replaced
        assert await contents(app) == ROWS
        live.unlink()
        restored = await migrator(app).restore_snapshot(snapshot.place)
        assert restored.replaced == "" and await contents(app) == ROWS

    @on_postgres
    async def test_others_who_are_connected_are_disturbed_on_request_alone(
        self, app: Deployed
    ) -> None:
        snapshot = await gone_on(app)
        dsn = make_url(app.url).set(drivername="postgresql")
        other = await asyncpg.connect(dsn.render_as_string(hide_password=False))
        try:
            with pytest.raises(RefusedError, match="connected"):
                await migrator(app).restore_snapshot(snapshot.place)
            assert await contents(app) == [*ROWS, LATE]
            assert not (await migrator(app).check()).targets[0].unfinished
            await migrator(app).restore_snapshot(snapshot.place, disconnect_others=True)
        finally:
            await other.close()
        assert await contents(app) == ROWS


@pytest.mark.long("template", "dump")
class TestRefused:
    """Nothing is changed, and the words say why."""

    @on_sqlite
    async def test_a_place_that_is_not_there_or_of_somebody_else(
        self, app: Deployed, tmp_path: Path
    ) -> None:
        snapshot = await gone_on(app)
        other = tmp_path / "other.db.snapshot-20260101T000000Z"
        shutil.copyfile(snapshot.place, other)
        open_to_all = Path(f"{make_url(app.url).database}.snapshot-20260101T000000Z")
        shutil.copyfile(snapshot.place, open_to_all)
        open_to_all.chmod(0o666)
        for place in (tmp_path / "nowhere", other, open_to_all):
            with pytest.raises(RefusedError, match="is no snapshot of") as refused:
                await migrator(app).restore_snapshot(place)
            assert "nothing was changed" in str(refused.value)
            assert snapshot.place in str(refused.value)
        assert await contents(app) == [*ROWS, LATE]

    @on_sqlite
    async def test_a_copy_of_ones_own_and_the_steps_by_hand_are_told(
        self, app: Deployed, tmp_path: Path
    ) -> None:
        live = Path(str(make_url(app.url).database))
        mine = shutil.copyfile(live, tmp_path / "mine.db")

        with pytest.raises(RefusedError, match="To put a copy of your own back") as refused:
            await migrator(app).restore_snapshot(mine)

        assert f"copy {mine} to {live}" in str(refused.value)

    @by_template
    async def test_a_database_of_another_role_or_of_another_target(
        self, app: Deployed, postgres_server: Any
    ) -> None:
        snapshot = await gone_on(app)
        live = make_url(app.url).database
        foreign = f"{live}__automigrator_snapshot_20260101t000000z"
        postgres_server.create(foreign)
        role = f"{live}_stranger"
        postgres_server.execute(f"CREATE ROLE {role}")
        postgres_server.execute(f"ALTER DATABASE {foreign} OWNER TO {role}")
        try:
            for place in (foreign, "postgres", f"{live}_2__automigrator_snapshot_a1"):
                with pytest.raises(RefusedError, match="is no snapshot of"):
                    await migrator(app).restore_snapshot(place)
        finally:
            postgres_server.drop(foreign)
            postgres_server.execute(f"DROP ROLE {role}")
        assert await contents(app) == [*ROWS, LATE] and snapshot.whole

    async def test_revisions_that_this_code_does_not_know(self, app: Deployed) -> None:
        app.execute("UPDATE alembic_version SET version_num = 'r7'")
        snapshot = await taken(app)
        app.execute("UPDATE alembic_version SET version_num = 'r1'")
        app.write_late()

        with pytest.raises(RefusedError, match="is at r7, which this code does not know"):
            await migrator(app).restore_snapshot(snapshot.place)

        assert await contents(app) == [*ROWS, LATE]
        restored = await migrator(app).restore_snapshot(snapshot.place, any_heads=True)
        assert restored.after == ("r7",) and await contents(app) == ROWS

    @on_sqlite
    async def test_a_disk_without_the_room(
        self, app: Deployed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        snapshot = await gone_on(app)
        usage = shutil.disk_usage("/")._replace(free=100)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(RefusedError, match="bytes free, there are 100; nothing was changed"):
            await migrator(app).restore_snapshot(snapshot.place)
        assert await contents(app) == [*ROWS, LATE]

    @on_sqlite
    async def test_a_writer_in_the_way_and_its_journal_is_closed(
        self, app: Deployed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import sqlite3

        snapshot = await gone_on(app)
        monkeypatch.setattr("automigrator.backends.sqlite.copying.overwrite.WAIT_S", 0.2)
        writer = sqlite3.connect(str(make_url(app.url).database), isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError, match="was not changed"):
            await migrator(app).restore_snapshot(snapshot.place)
        writer.close()
        assert not (await migrator(app).check()).targets[0].unfinished
        assert await contents(app) == [*ROWS, LATE]

    @on_sqlite
    async def test_another_process_that_holds_the_lock_is_waited_for(
        self, new: Release, app: Deployed
    ) -> None:
        snapshot = await taken(app)
        app.traced(app.held + GOOD)
        with new.begun(app.start_with()) as leader:
            await asyncio.to_thread(app.await_trace)
            short = Migrator(app.target(lock_timeout=0.2))
            with pytest.raises(LockTimeoutError):
                await short.restore_snapshot(snapshot.place)
            waiting = asyncio.create_task(migrator(app).restore_snapshot(snapshot.place))
            await asyncio.sleep(0.2)
            app.go()
            assert (await asyncio.to_thread(leader.ended)).outcome == "migrated"
            restored = await waiting
        assert (restored.before, restored.after) == (("r2",), ("r1",))

    async def test_a_database_in_memory_has_none(self, tmp_path: Path) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import StaticPool

        from automigrator import Target

        app = Deployed(tmp_path, f"sqlite+aiosqlite:///{tmp_path / 'a.db'}")
        engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
        in_memory = Migrator(Target(engine, app.config))
        assert await in_memory.snapshots() == ()
        for act in (in_memory.take_snapshot(), in_memory.restore_snapshot("x")):
            with pytest.raises(RefusedError, match="in memory has no snapshots"):
                await act
        await engine.dispose()


@pytest.mark.long("template", "dump")
class TestPrune:
    async def test_beyond_the_limits_and_never_what_was_replaced_unless_told(
        self, app: Deployed
    ) -> None:
        places = [(await gone_on(app)).place]
        restored = await migrator(app).restore_snapshot(places[0])
        for number in range(2):
            app.execute(f"INSERT INTO notes VALUES ({20 + number}, 'more')")
            places.append((await taken(app)).place)
        before = {each.place for each in await beside(app)}

        deleted = await migrator(app).prune_snapshots(1)

        left = {each.place for each in await beside(app)}
        assert set(deleted) == before - left and places[0] in deleted
        assert places[-1] in left and places[-2] not in left
        assert restored.replaced in left
        if app.copy == "dump":
            assert not list(app.dumps.glob(f"{Path(places[0]).name}*"))

    async def test_without_a_limit_it_is_a_mistake(self, app: Deployed) -> None:
        with pytest.raises(ConfigurationError, match="keep="):
            await migrator(app).prune_snapshots()

    async def test_never_what_an_open_journal_needs(self, new: Release, app: Deployed) -> None:
        app.deploy(HALF_WAY + DIES)
        await asyncio.to_thread(new.killed, app.start_with(app.backup()))
        (needed,) = await beside(app)
        assert needed.at is not None
        later = f"{needed.at + timedelta(seconds=2):%Y%m%dT%H%M%S%fZ}"
        if app.copy == "template":
            newer = needed.place.replace(needed.stamp.lower(), later.lower())
            app.execute(f"CREATE DATABASE {newer} TEMPLATE {needed.place}")
        else:
            shutil.copy(needed.place, needed.place.replace(needed.stamp, later))
        assert len(await beside(app)) == 2

        assert await migrator(app).prune_snapshots(1) == ()

        app.mended()
        ended = await asyncio.to_thread(new.run, app.start_with())
        assert ended.outcome == "migrated" and needed.place in ended.said
        assert await contents(app) == ROWS
