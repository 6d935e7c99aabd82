"""A subclass of Migrator may override a step, and call what it overrides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from support.acting_strategies import Rebuilding
from support.alembic_projects import heads, linear, query, revision, tables

from automigrator import (
    MigrationError,
    Migrator,
    RefusedError,
    Run,
    Target,
    TargetReport,
)

pytestmark = pytest.mark.long(
    "refuse_to_replace_a_database[postgresql", "being_replaced[postgresql"
)

Make = Callable[..., Target]


async def test_a_subclass_says_whether_to_run_at_all(
    make_target: Make, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Never(Migrator):
        def is_enabled(self) -> bool:
            return False

    class Always(Migrator):
        def is_enabled(self) -> bool:
            return True

    monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
    target = make_target(database=sqlite_url)

    assert (await Never(target, mode="migrate").run()).outcome == "skipped"
    assert tables(sqlite_url) == set()
    assert (await Always(target).run()).outcome == "migrated"
    assert heads(sqlite_url) == {"r3"}


async def test_a_subclass_creates_an_absent_database_its_own_way(
    make_target: Make, tmp_path: Path
) -> None:
    created: list[str] = []

    class Creating(Migrator):
        async def create_database(self, run: Run) -> bool:
            made = await super().create_database(run)
            created.append(f"{run.name} {made}")
            return made

    url = f"sqlite+aiosqlite:///{tmp_path / 'deep' / 'app.db'}"
    migrator = Creating(make_target(database=url), mode="migrate")

    assert (await migrator.run()).outcome == "migrated"
    await migrator.run()

    assert created == ["app True"]


async def test_a_creation_that_fails_is_a_failure_of_the_target(
    make_target: Make, tmp_path: Path
) -> None:
    class Refusing(Migrator):
        async def create_database(self, run: Run) -> bool:
            raise PermissionError("ask the operators")

    url = f"sqlite+aiosqlite:///{tmp_path / 'deep' / 'app.db'}"

    with pytest.raises(MigrationError, match="ask the operators"):
        await Refusing(make_target(database=url), mode="migrate").run()

    assert not (tmp_path / "deep").exists()


@pytest.mark.long
async def test_a_subclass_wraps_one_targets_whole_part(make_target: Make, tmp_path: Path) -> None:
    seen: list[str] = []

    class Timed(Migrator):
        async def migrate_target(self, run: Run) -> TargetReport:
            seen.append(f"before {run.name}")
            report = await super().migrate_target(run)
            seen.append(f"after {run.name}: {report.outcome}")
            return report

    urls = [f"sqlite+aiosqlite:///{tmp_path / name}.db" for name in ("one", "two")]
    targets = [make_target(folder=str(n), database=url) for n, url in enumerate(urls)]

    await Timed(*targets, mode="migrate").run()

    assert seen == ["before one", "after one: migrated", "before two", "after two: migrated"]


async def test_a_subclass_may_replace_one_targets_whole_part(
    make_target: Make, sqlite_url: str
) -> None:
    class Elsewhere(Migrator):
        async def migrate_target(self, run: Run) -> TargetReport:
            return TargetReport(run.name, "current")

    report = await Elsewhere(make_target(database=sqlite_url), mode="migrate").run()

    assert report.outcome == "current"
    assert tables(sqlite_url) == set()


def impossible_with_rows(folder: Path) -> None:
    linear(folder, 3)
    again = "INSERT INTO users (id, name) SELECT id, name FROM users"
    revision(folder, "r4", "r3", upgrade=f'op.execute("{again}")')


async def target_with_a_row(make_target: Make, url: str, versions: Path) -> Target:
    target = make_target(database=url)
    await Migrator(target, mode="migrate").run()
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("INSERT INTO users (id, name) VALUES (1, 'ada')")
    await engine.dispose()
    impossible_with_rows(versions)
    return target


async def test_a_subclass_sees_a_database_being_replaced(
    make_target: Make, database_url: str, versions: Path
) -> None:
    seen: list[object] = []

    class Telling(Migrator):
        async def recreate_database(
            self, run: Run, *, set_aside: bool, disconnect_others: bool
        ) -> str | None:
            seen.append((run.name, set_aside, disconnect_others))
            aside = await super().recreate_database(
                run, set_aside=set_aside, disconnect_others=disconnect_others
            )
            seen.append(aside is not None)
            return aside

    target = await target_with_a_row(make_target, database_url, versions)

    report = await Telling(target, mode="migrate", recovery=[Rebuilding()]).run()

    assert report.outcome == "recovered"
    assert seen == [(target.name, True, False), True]
    assert heads(database_url) == {"r4"}
    assert list(query(database_url, "SELECT * FROM users")) == []


async def test_a_subclass_may_refuse_to_replace_a_database(
    make_target: Make, database_url: str, versions: Path
) -> None:
    class Keeping(Migrator):
        async def recreate_database(
            self, run: Run, *, set_aside: bool, disconnect_others: bool
        ) -> str | None:
            raise RefusedError("never in production")

    target = await target_with_a_row(make_target, database_url, versions)

    with pytest.raises(MigrationError, match="(?i)unique") as caught:
        await Keeping(target, mode="migrate", recovery=[Rebuilding()]).run()

    (note,) = caught.value.report.targets[0].notes
    assert "Rebuilding" in note and "never in production" in note
    assert len(query(database_url, "SELECT * FROM users")) == 1
    assert heads(database_url) == {"r3"}
