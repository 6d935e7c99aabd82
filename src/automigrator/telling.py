"""Tells where a run and each of its targets begin and end, however they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from automigrator.course import Course
from automigrator.errors import MigrationError
from automigrator.gate import Mode
from automigrator.progress import Progress
from automigrator.report import Report, TargetReport
from automigrator.run import Run
from automigrator.run_limit import within
from automigrator.target import Target


async def run_told(
    tell: Progress,
    mode: Mode,
    targets: Sequence[Target],
    work: Callable[[Progress], Awaitable[Report]],
) -> Report:
    """Await one run's work. Raises what it raises."""
    began = time.monotonic()
    if tell.heard("run-started"):
        names = [target.name for target in targets]
        told = f"migration run started: {', '.join(names)}"
        tell("run-started", told=told, mode=mode, targets=names)
    try:
        report = await work(tell)
    except BaseException as error:
        seconds, name = time.monotonic() - began, type(error).__name__
        outcome = ended_by(error)
        reports = error.report.targets if isinstance(error, MigrationError) else ()
        tell(
            "run-finished",
            told=f"migration run: {outcome} in {seconds:.2f} s ({name})",
            outcome=outcome,
            error=name,
            targets={each.name: each.outcome for each in reports},
            seconds=seconds,
        )
        raise
    tell(
        "run-finished",
        told=report,
        outcome=report.outcome,
        error=None,
        targets={each.name: each.outcome for each in report.targets},
        seconds=report.elapsed_s,
    )
    return report


async def target_told(
    course: Course, work: Callable[[Run], Awaitable[TargetReport]]
) -> TargetReport:
    """Await one target's part of a run. Raises what it raises."""
    tell, target = course.progress, course.ground.target
    if tell.heard("target-started"):
        database = course.ground.backend.name
        tell("target-started", target.name, database=database, url=target.url)
    try:
        report = await within(course, work)
    except BaseException as error:
        _target_finished(course, course.report("failed"), ended_by(error))
        raise
    if tell.heard("target-finished"):
        _target_finished(course, report, report.outcome)
    return report


def ended_by(error: BaseException) -> str:
    """The outcome of what raised."""
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"


def _target_finished(course: Course, report: TargetReport, outcome: str) -> None:
    data = {**report.to_dict(), "outcome": outcome}
    del data["name"]
    course.progress("target-finished", report.name, **data)
