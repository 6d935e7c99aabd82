"""The recovery strategies composed as applications compose them; what the core holds them to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support.acting_strategies import Restoring
from support.notes_application import BROKEN, GOOD, HALF_WAY, ROWS, UNIQUE, Application, set_aside

from automigrator import (
    Decision,
    Failure,
    MigrationError,
    Migrator,
    Run,
    TargetReport,
    hookimpl,
)

pytestmark = [pytest.mark.plugins, pytest.mark.long("postgresql")]

LOSSY = 'op.execute("DELETE FROM notes")'


class Answering:
    """A plugin with one answer to every failure; it touches nothing."""

    def __init__(self, answer: Decision | None) -> None:
        self.answer = answer
        self.asked: list[Failure] = []

    @hookimpl
    def on_failure(self, failure: Failure) -> Decision | None:
        self.asked.append(failure)
        return self.answer


class Once:
    """Answers the first failure only."""

    def __init__(self, answer: Decision, first: Any = lambda: None) -> None:
        self.answer, self.first = answer, first

    @hookimpl
    def on_failure(self, run: Run) -> Decision | None:
        if run.attempt > 1:
            return None
        self.first()
        return self.answer


class RaisingAfterIt(Restoring):
    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> Decision:
        await super().on_failure(run, failure)
        raise RuntimeError("half done")


async def failed(notes: Application, *recovery: Any, **options: Any) -> TargetReport:
    with pytest.raises(MigrationError) as info:
        await notes.start(*recovery, **options)
    return info.value.report.targets[0]


@pytest.fixture
def one_by_one(tmp_path: Path, database_url: str) -> Application:
    """The notes, with a transaction for each revision."""
    return Application(tmp_path, database_url, kind="per_migration")


def criticals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.CRITICAL]


@pytest.mark.long
async def test_restored_and_started_on_the_old_schema(
    notes: Application, caplog: pytest.LogCaptureFixture
) -> None:
    notes.deploy(GOOD, HALF_WAY)
    (report,) = (await notes.start("backup-restore", "log-and-continue")).targets
    assert (report.outcome, report.after) == ("degraded", ("r1",))
    assert notes.notes() == ROWS and "tags" not in notes.tables
    (text,) = criticals(caplog)
    assert report.state == "clean" and "at r1, the code expects r3" in text


async def test_the_headless_recipe_purges_retries_and_recovers_where_old_data_was_the_cause(
    notes: Application, caplog: pytest.LogCaptureFixture
) -> None:
    notes.deploy(UNIQUE)
    (report,) = (await notes.start("purge", "log-and-continue")).targets
    assert (report.outcome, report.after, report.attempts) == ("recovered", ("r2",), 2)
    assert notes.notes(set_aside(report)) == ROWS
    assert criticals(caplog) == []


async def test_the_headless_recipe_continues_with_a_critical_log_where_the_revision_is_the_cause(
    notes: Application, caplog: pytest.LogCaptureFixture
) -> None:
    notes.deploy(BROKEN)
    (report,) = (await notes.start("purge", "log-and-continue")).targets
    assert (report.outcome, report.after, report.attempts) == ("degraded", ("r1",), 1)
    assert any("not purged" in note for note in report.notes)
    assert notes.notes() == ROWS
    assert len(criticals(caplog)) == 1


async def test_an_unversioned_database_is_never_purged(notes: Application) -> None:
    notes.execute("DROP TABLE alembic_version")
    (report,) = (await notes.start("purge", "log-and-continue")).targets
    assert [failure.kind for failure in report.failures] == ["unversioned"]
    assert report.outcome == "degraded"
    assert notes.notes() == ROWS


async def test_all_three_restore_first_and_set_aside_what_was_restored(notes: Application) -> None:
    notes.deploy(HALF_WAY.replace(BROKEN, UNIQUE).replace("<> 'bread'", "= 'bread'"))
    order = ("backup-restore", "purge", "log-and-continue")
    (report,) = (await notes.start(*order)).targets
    assert (report.outcome, report.after) == ("recovered", ("r2",))
    assert notes.notes(set_aside(report)) == ROWS


async def test_a_target_with_strategies_of_its_own_is_not_purged_by_the_migrators(
    tmp_path: Path,
) -> None:
    primary, cache = (
        Application(tmp_path / name, f"sqlite+aiosqlite:///{tmp_path / name / 'app.db'}")
        for name in ("primary", "cache")
    )
    for application in (primary, cache):
        application.deploy(UNIQUE)
    migrator = Migrator(
        primary.target(name="primary", recovery=["log-and-continue"]),
        cache.target(name="cache"),
        mode="migrate",
        recovery=["purge"],
    )
    report = await migrator.run()
    assert [target.outcome for target in report.targets] == ["degraded", "recovered"]
    assert (primary.notes(), cache.notes()) == (ROWS, [])


async def test_a_plugin_that_raises_after_an_act_ends_the_search_before_a_purge(
    notes: Application,
) -> None:
    notes.deploy(HALF_WAY.replace(BROKEN, UNIQUE).replace("<> 'bread'", "= 'bread'"))
    report = await failed(notes, RaisingAfterIt(), "purge", "log-and-continue")
    assert any("on_failure of RaisingAfterIt raised RuntimeError" in note for note in report.notes)
    assert (notes.notes(), report.attempts) == (ROWS, 1)


@pytest.mark.long
async def test_retrying_is_bounded(notes: Application) -> None:
    notes.deploy(BROKEN)
    again, then = Answering(Decision.RETRY), Answering(None)
    report = await failed(notes, again, then)
    assert (report.attempts, len(report.failures)) == (3, 3)
    assert len(again.asked) == 3
    assert len(then.asked) == 1


async def test_data_is_not_purged_when_no_attempt_is_left_to_follow(notes: Application) -> None:
    notes.deploy(UNIQUE)
    report = await failed(notes, Answering(Decision.RETRY), "purge")
    assert notes.notes() == ROWS
    assert any("purge was not asked" in note for note in report.notes)


@pytest.mark.long("False")
@pytest.mark.parametrize("allowed", [True, False])
async def test_continuing_on_whole_revisions_of_a_failed_migration_must_be_allowed(
    allowed: bool, one_by_one: Application
) -> None:
    one_by_one.deploy(GOOD, BROKEN)
    answer = Answering(Decision.CONTINUE)
    if allowed:
        (report,) = (await one_by_one.start(answer, allow_partial=True)).targets
    else:
        report = await failed(one_by_one, answer)
    assert report.outcome == ("degraded" if allowed else "failed")
    assert report.failures[0].state == "partial-at-boundary"
    assert [applied.revision for applied in report.applied] == ["r2"]
    assert report.after == ("r2",)


async def test_another_attempt_does_not_make_what_the_first_one_left_clean(
    one_by_one: Application,
) -> None:
    one_by_one.deploy(GOOD, BROKEN)
    again, go_on = Answering(Decision.RETRY), Answering(Decision.CONTINUE)
    report = await failed(one_by_one, again, go_on)
    assert [failure.state for failure in report.failures] == ["partial-at-boundary"] * 3
    assert [applied.revision for applied in report.applied] == ["r2"]


@pytest.mark.long
async def test_rows_lost_in_a_first_attempt_come_back_after_a_second_that_lost_none(
    one_by_one: Application,
) -> None:
    one_by_one.deploy(LOSSY, BROKEN)
    report = await failed(one_by_one, "backup-restore", plugins=[Once(Decision.RETRY)])
    assert report.attempts == 2
    assert (one_by_one.notes(), report.after) == (ROWS, ("r1",))


async def test_another_attempt_goes_on_from_where_the_first_one_got_to(
    one_by_one: Application,
) -> None:
    mended = one_by_one.root / "mended"
    check = f"import os\nif not os.path.exists({str(mended)!r}):\n    "
    one_by_one.deploy(GOOD, check + BROKEN)
    again = Once(Decision.RETRY, mended.touch)
    (report,) = (await one_by_one.start("backup-restore", plugins=[again])).targets
    assert report.outcome == "recovered"
    assert [applied.revision for applied in report.applied] == ["r2", "r3"]
    assert report.notes == ()


@pytest.mark.long
async def test_an_env_that_migrates_several_schemas_is_copied_first(
    tmp_path: Path, postgres_url: str
) -> None:
    notes = Application(tmp_path, postgres_url, kind="schemas", started=False)
    await notes.start()
    notes.deploy(GOOD)
    await notes.start("backup-restore")
    assert notes.seen.run is not None and not notes.seen.run.transactional
    assert notes.seen.snapshot is not None
