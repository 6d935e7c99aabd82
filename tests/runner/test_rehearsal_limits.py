"""Revisions that would cost more than a rehearsal allows are refused, or left to a later start."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.notes_application import GOOD, NOTES, Application

from automigrator import (
    ConfigurationError,
    Event,
    MigrationError,
    Migrator,
    Rehearsal,
    Report,
    Run,
    TargetReport,
    hookimpl,
)
from automigrator.exits import Exit, of_error, of_report

ADDED = 'op.add_column("notes", sa.Column("a", sa.Text))'
GROWS = """
op.execute("CREATE TABLE large AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c \\
WHERE x < 5000) SELECT x, 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' y FROM c")
"""
NEVER = Rehearsal(max_block=0)
DEFER = Rehearsal(max_growth=200_000, defer=True)


async def run(application: Application, rehearse: Any, *plugins: object) -> TargetReport:
    migrator = Migrator(application.target(), mode="migrate", rehearse=rehearse, plugins=plugins)
    try:
        return (await migrator.run()).targets[0]
    except MigrationError as error:
        return error.report.targets[0]


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (NEVER, "max_block=0"),
        (Rehearsal(max_time=0), "max_time=0"),
        (Rehearsal(max_growth=0), "max_growth=0"),
    ],
)
async def test_above_a_limit_nothing_is_changed(
    limits: Rehearsal, word: str, notes: Application
) -> None:
    notes.deploy(GOOD, f"{ADDED}\n{GROWS}")

    report = await run(notes, limits)

    (failure,) = report.failures
    assert (report.outcome, failure.kind, failure.state) == ("failed", "rehearsal", "clean")
    assert word in failure.message and "nothing was changed" in failure.message
    assert "automigrator rehearse" in failure.advice
    assert report.rehearsal is not None
    assert report.rehearsal.findings[-1].kind == "over-limit"
    assert report.failed_starts == 0 and of_report(Report((report,))) is Exit.REFUSED
    assert notes.heads == {"r1"} and notes.tables == {"alembic_version", "notes"}


async def test_below_the_limits_all_is_applied(notes: Application) -> None:
    notes.deploy(GOOD, ADDED)
    limits = Rehearsal(max_block=60, max_time=60, max_growth=10**9, defer=True)
    report = await run(notes, limits)
    assert (report.outcome, report.deferred, notes.heads) == ("migrated", (), {"r3"})


class Told:
    def __init__(self) -> None:
        self.pending: list[str] = []
        self.after = 0
        self.events: list[Event] = []

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.events.append(event)

    @hookimpl
    def before_migrate(self, run: Run) -> None:
        self.pending += [each.revision for each in run.pending]

    @hookimpl
    def after_migrate(self, run: Run, report: TargetReport) -> None:
        self.after += 1


async def test_what_comes_before_is_applied_and_the_rest_is_deferred(notes: Application) -> None:
    notes.deploy(GOOD, GROWS, ADDED)
    told = Told()

    report = await run(notes, DEFER, told)

    assert (report.outcome, report.deferred) == ("degraded", ("r3", "r4"))
    assert [each.revision for each in report.applied] == ["r2"]
    assert (report.after, report.failures, report.failed_starts) == (("r2",), (), 0)
    assert notes.heads == {"r2"} and "large" not in notes.tables
    assert told.pending == ["r2"] and told.after == 0
    assert "deferred: r3, r4" in str(report)
    (event,) = [each for each in told.events if each.name == "deferred"]
    assert event.data["revisions"] == ["r3", "r4"] and "max_growth" in event.data["reason"]
    assert of_report(Report((report,))) is Exit.DEGRADED


async def test_the_next_start_rehearses_again_and_none_counts_as_failed(
    notes: Application,
) -> None:
    notes.deploy(GROWS)
    for _ in range(3):
        report = await Migrator(
            notes.target(), mode="migrate", rehearse=DEFER, max_failed_starts=1
        ).run()
        (target,) = report.targets
        assert (target.outcome, target.deferred, target.applied) == ("degraded", ("r2",), ())
        assert target.rehearsed_s is not None and target.failed_starts == 0
    allowed = await run(notes, Rehearsal(max_growth=10**9, defer=True))
    assert (allowed.outcome, notes.heads) == ("migrated", {"r2"})


async def test_those_who_waited_do_not_rehearse_what_their_leader_has_deferred(
    notes: Application,
) -> None:
    notes.deploy(GOOD, GROWS)
    reports = await asyncio.gather(*(run(notes, DEFER) for _ in range(3)))
    assert {each.outcome for each in reports} == {"degraded"}
    assert {each.deferred for each in reports} == {("r3",)}
    assert sum(each.rehearsed_s is not None for each in reports) == 1
    assert all(each.failures == () for each in reports) and notes.heads == {"r2"}


async def test_a_branch_is_cut_where_it_exceeds_the_limit(
    tmp_path: Path, database_url: str
) -> None:
    from support import alembic_projects

    application = Application(tmp_path, database_url)
    versions = tmp_path / "migrations" / "versions"
    alembic_projects.revision(versions, "a2", "r1", upgrade=GOOD)
    alembic_projects.revision(versions, "b2", "r1", upgrade=ADDED)
    alembic_projects.revision(versions, "m3", ("a2", "b2"), upgrade=GROWS)
    report = await run(application, DEFER)
    assert (report.outcome, report.deferred) == ("degraded", ("m3",))
    assert set(report.after) == {"a2", "b2"} == application.heads


async def test_a_start_without_limits_takes_up_what_was_deferred(notes: Application) -> None:
    notes.deploy(GROWS)
    await run(notes, DEFER)
    report = await run(notes, False)
    assert (report.outcome, report.failed_starts) == ("migrated", 0)
    assert len(notes.notes()) == len(NOTES)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_block": -1}, "max_block=-1 is not a number of seconds"),
        ({"max_time": "1"}, "max_time='1' is not a number of seconds"),
        ({"max_growth": True}, "max_growth=True is not a number of bytes"),
        ({"max_block": 1, "defer": 1}, "defer must be True or False"),
        ({"defer": True}, "give max_block, max_time or max_growth"),
    ],
)
def test_a_wrong_limit_is_refused_when_it_is_given(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        Rehearsal(**options)


async def test_an_exit_code_tells_a_refusal(notes: Application) -> None:
    notes.deploy(ADDED)
    with pytest.raises(MigrationError) as raised:
        await Migrator(notes.target(), mode="migrate", rehearse=NEVER).run()
    assert of_error(raised.value) is Exit.REFUSED
