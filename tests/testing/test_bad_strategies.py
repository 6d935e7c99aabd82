"""A suite that cannot fail proves nothing: each of these strategies is wrong, and is told how."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine
from support.sqlite_holds import held

from automigrator import Decision, Failure, RefusedError, Run, hookimpl
from automigrator.backends.access import Access
from automigrator.backends.sqlite.backend import SQLite
from automigrator.errors import ConfigurationError
from automigrator.testing import StrategyConformance
from automigrator.testing.contents import ROWS

pytestmark = pytest.mark.long(
    "secret_on_postgresql", "works_on_the_live_data", "repairs_nothing_after"
)


async def do(run: Run, *statements: str) -> list[Any]:
    """Behind the core's back; returns the last statement's rows."""
    engine = create_async_engine(run.target.application_url, poolclass=NullPool)
    rows: list[Any] = []
    async with engine.begin() as connection:
        for statement in statements:
            result = await connection.execute(text(statement))
            rows = list(result.all()) if result.returns_rows else []
    await engine.dispose()
    return rows


class AnswersText:
    @hookimpl
    def on_failure(self) -> str:
        return "retry"


class Raises:
    @hookimpl
    def on_failure(self, failure: Failure) -> Decision | None:
        return {"revision": Decision.ABORT}[failure.kind]


class ActsWhileClean:
    effect = "reverting"

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        await run.snapshot()

    @hookimpl
    async def on_failure(self, run: Run) -> None:
        with contextlib.suppress(RefusedError):
            await run.restore()


class ActsBeyondItsEffect(ActsWhileClean):
    effect = "none"


class DeclaresNonsense(ActsWhileClean):
    effect = "sometimes"


class TakesAForeignArgument:
    @hookimpl
    def on_failure(self, run: Run, database: str) -> None: ...


class ChangesDataWhenAsked:
    @hookimpl
    async def on_failure(self, run: Run) -> None:
        await do(run, "DELETE FROM notes WHERE id = 9")


class ChangesDataBefore:
    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        await do(run, "DELETE FROM notes WHERE id = 9")


class LeavesTheJournal:
    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        snapshots = held(SQLite(Access(run.target))).snapshots
        assert snapshots is not None
        await snapshots.take("mine", run.before, run.wanted, run.tables)


class PretendsToHaveMigrated:
    @hookimpl
    async def on_failure(self, run: Run) -> Decision:
        await do(run, "UPDATE alembic_version SET version_num = 'r2'")
        return Decision.RETRY


class DeletesTheOldData:
    effect = "discarding"

    @hookimpl
    async def on_failure(self, run: Run) -> Decision | None:
        with contextlib.suppress(RefusedError):
            await run.recreate_database(set_aside=False)
            return Decision.RETRY
        return None


class TellsRows:
    @hookimpl
    async def on_failure(self, run: Run) -> None:
        run.note(f"at risk: {await do(run, 'SELECT text FROM notes')}")


class TellsThePassword:
    @hookimpl
    async def on_failure(self, run: Run) -> None:
        run.note(run.target.application_url.render_as_string(hide_password=False))


class Blocks:
    @hookimpl
    def on_failure(self) -> None:
        time.sleep(0.5)  # a wrong strategy's, not a test's


class SwallowsItsCancellation:
    @hookimpl
    async def on_failure(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.3)


class RemembersItsFirstTarget(DeletesTheOldData):
    def __init__(self) -> None:
        self._used = False

    @hookimpl
    async def on_failure(self, run: Run) -> Decision | None:
        if self._used:
            return None
        self._used = True
        return await super().on_failure(run)


class WorksOnTheLiveData:
    """Deletes and inserts again: whoever is killed in between has lost it."""

    @hookimpl
    async def on_failure(self, run: Run) -> None:
        values = ", ".join(f"({number}, '{value}')" for number, value in ROWS)
        await do(run, "DELETE FROM notes")
        await asyncio.sleep(0.3)
        await do(run, f"INSERT INTO notes VALUES {values}")


class GivesUpWhereItWasKilled(DeletesTheOldData):
    """A mark on the disk says that it is at it already."""

    @hookimpl
    def before_migrate(self, run: Run) -> None:
        mark = Path(f"{run.target.application_url.database}.mark")
        self._passes = mark.exists()
        mark.touch()

    @hookimpl
    async def on_failure(self, run: Run) -> Decision | None:
        return None if self._passes else await super().on_failure(run)


class _Bad(StrategyConformance):
    __test__ = False
    strategy: type

    def make(self) -> object:
        return self.strategy()


class Working(_Bad):
    """At the top level, for the processes of its own."""

    __test__ = False
    strategy = WorksOnTheLiveData
    kills = 3


class GivingUp(_Bad):
    """The same."""

    __test__ = False
    strategy = GivesUpWhereItWasKilled
    deletes_old_data = True
    kills = 0


def no_fixture(name: str) -> NoReturn:
    raise LookupError(name)


def complaint(suite: StrategyConformance, case: str, folder: Path, **databases: Any) -> str:
    """What a case of the suite says is wrong."""
    kind, fixture = databases.get("kind", "sqlite"), databases.get("fixture", no_fixture)
    with suite.opened(kind, folder, fixture), pytest.raises(AssertionError) as info:
        getattr(suite, case)()
    return str(info.value)


ASKED = "test_every_failure_is_answered_within_its_effect"
SUCCEEDS = "test_a_migration_that_succeeds_is_as_without_it"
IN_THE_WAY = "test_rows_in_the_way_of_a_revision"


@pytest.mark.long(
    "ChangesDataWhenAsked",
    "RemembersItsFirstTarget",
    "DeletesTheOldData",
    "LeavesTheJournal",
    "Raises",
)
@pytest.mark.parametrize(
    ("strategy", "case", "told"),
    [
        (AnswersText, ASKED, "revision, clean: on_failure of AnswersText returned a str"),
        (Raises, ASKED, "disk-full, clean: on_failure of Raises raised KeyError"),
        (ActsWhileClean, ASKED, "it called run.restore() where the database was clean"),
        (ActsBeyondItsEffect, ASKED, "it called run.restore() and declares effect = 'none'"),
        (DeclaresNonsense, "test_its_effect_is_one_of_those_there_are", "effect='sometimes'"),
        (TakesAForeignArgument, "test_its_hooks_can_be_called", "takes database"),
        (ChangesDataWhenAsked, ASKED, "it changed the database when asked"),
        (
            ChangesDataWhenAsked,
            "test_without_the_lock_it_touches_nothing",
            "it changed the database when asked",
        ),
        (ChangesDataBefore, SUCCEEDS, "did not end as it does without it"),
        (LeavesTheJournal, SUCCEEDS, "a journal is left open"),
        (PretendsToHaveMigrated, IN_THE_WAY, "neither the old one nor the migrated one"),
        (DeletesTheOldData, IN_THE_WAY, "the database was replaced, and the old data is in none"),
        pytest.param(
            *(TellsRows, "test_no_secret_is_told", "<the secret>"),
            marks=pytest.mark.leaks("error", "event", "log", "report"),
        ),
        (
            SwallowsItsCancellation,
            "test_cancelled_at_any_moment_nothing_is_left_open",
            "an except has swallowed the CancelledError",
        ),
        (
            RemembersItsFirstTarget,
            "test_one_object_serves_several_databases",
            "one object was used for two databases that failed alike",
        ),
    ],
)
def test_a_wrong_strategy_is_told_what_is_wrong(
    strategy: type, case: str, told: str, tmp_path: Path
) -> None:
    suite = _Bad()
    suite.strategy = strategy
    suite.deletes_old_data = strategy is RemembersItsFirstTarget
    assert told in complaint(suite, case, tmp_path)


def test_one_that_blocks_the_loop_is_told_for_how_long(tmp_path: Path) -> None:
    suite = _Bad()
    suite.strategy, suite.longest_stall_s = Blocks, 0.3  # type: ignore[misc]  # narrower than its
    told = complaint(suite, "test_the_event_loop_is_not_blocked", tmp_path)
    assert "the event loop was blocked for" in told


def test_one_that_works_on_the_live_data_is_caught_by_a_kill(tmp_path: Path) -> None:
    told = complaint(Working(), "test_killed_at_any_moment_the_next_start_loses_nothing", tmp_path)
    assert "neither the old one nor the migrated one" in told


def test_one_that_repairs_nothing_after_a_kill_is_told_what_was_to_be_there(
    tmp_path: Path,
) -> None:
    told = complaint(GivingUp(), "test_killed_at_any_moment_the_next_start_loses_nothing", tmp_path)
    assert "killed 0 ms after 'failed' and started again, there is" in told


@pytest.mark.leaks("error", "event", "log", "report")
def test_the_password_is_a_secret_on_postgresql(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    suite = _Bad()
    suite.strategy = TellsThePassword
    told = complaint(
        suite,
        "test_no_secret_is_told",
        tmp_path,
        kind="postgresql",
        fixture=request.getfixturevalue,
    )
    assert "<the secret>" in told and "canary" not in told


def test_a_suite_without_a_strategy_says_what_it_needs(tmp_path: Path) -> None:
    class Nameless(StrategyConformance):
        __test__ = False

    with pytest.raises(ConfigurationError, match="Nameless needs a name, or a make"):
        Nameless().make()


def test_a_class_that_inherits_is_collected_and_the_suite_itself_is_not() -> None:
    class TestMine(StrategyConformance):
        name = "mine"

    assert TestMine.__test__ and not StrategyConformance.__test__
