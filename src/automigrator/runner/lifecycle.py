"""Tells where a run and each of its targets begin and end, however they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING

from automigrator.errors import MigrationError
from automigrator.report import Report, TargetReport
from automigrator.runner.session import Session, opened
from automigrator.runner.state import Left, RunState

if TYPE_CHECKING:
    from automigrator.events.notifier import Notifier
    from automigrator.failure import Failure
    from automigrator.hooks.context import Run
    from automigrator.runner.modes import Mode
    from automigrator.runner.time_limit import TimeIsUpError
    from automigrator.target import Target


async def run_told(
    tell: Notifier,
    mode: Mode,
    targets: Sequence[Target],
    work: Callable[[Notifier], Awaitable[Report]],
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


async def targets_told(
    targets: Sequence[Target],
    looked: Session | None,
    begun: Callable[..., AbstractAsyncContextManager[RunState]],
    work: Callable[[Run], Awaitable[TargetReport]],
) -> tuple[TargetReport, ...]:
    """Do every target's part of a run, until one fails.

    `looked`: the session of the first, where a look has found that there is something to do.
    `begun` gets a session and gives the state of its run. Raises what the work raises.
    """
    reports: list[TargetReport] = []
    for target in targets:
        if any(report.outcome == "failed" for report in reports):
            reports.append(TargetReport(target.name, "not-run"))
            continue
        async with AsyncExitStack() as stack:
            session = looked
            if session is None:
                session = await stack.enter_async_context(opened(target))
            state = await stack.enter_async_context(begun(session, looked=looked is not None))
            reports.append(await target_told(state, work))
        looked = None
    return tuple(reports)


async def target_told(
    state: RunState, work: Callable[[Run], Awaitable[TargetReport]]
) -> TargetReport:
    """Await one target's part of a run. Raises what it raises."""
    tell, target = state.progress, state.session.target
    if tell.heard("target-started"):
        database = state.session.backend.name
        tell("target-started", target.name, database=database, url=target.url)
    try:
        report = await within(state, work)
    except BaseException as error:
        _target_finished(state, state.report("failed"), ended_by(error))
        raise
    if tell.heard("target-finished"):
        _target_finished(state, report, report.outcome)
    return report


def succeeded(report: Report) -> Report:
    """Return the report, unless a target failed. Raises MigrationError then."""
    for target in report.targets:
        if target.outcome == "failed":
            failure = target.failures[-1]
            raise MigrationError(f"{target.name}: {failure}", report) from failure.error
    return report


def ended_by(error: BaseException) -> str:
    """The outcome of what raised."""
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"


def _target_finished(state: RunState, report: TargetReport, outcome: str) -> None:
    data = {**report.to_dict(), "outcome": outcome}
    del data["name"]
    state.progress("target-finished", report.name, **data)


def time_is_up(state: RunState) -> TimeIsUpError:
    """The error of a run whose time is over: what it waited for, or did."""
    from automigrator.runner.time_limit import TimeIsUpError  # local: most runs have no limit

    assert state.limit is not None
    execution = state.execution
    if state.phase.revisions and execution is not None and execution.current is not None:
        what = f"running revision {execution.current}, which was stopped"
        return TimeIsUpError(state.limit.seconds, what, execution.statement)
    return TimeIsUpError(state.limit.seconds, state.phase.what)


async def within(state: RunState, work: Callable[[Run], Awaitable[TargetReport]]) -> TargetReport:
    """Await one target's part of a run; as long as the run has time, and then report that."""
    limit = state.limit
    if limit is None:
        return await work(state.run)
    try:
        async with limit.begin() as timeout:
            return await work(state.run)
    except TimeoutError:
        if not timeout.expired():
            raise
    error = time_is_up(state)
    # the attempts answer for what they began; here nothing was, or all of it is committed
    applied = tuple(each.revision for each in state.applied)
    left = Left("partial-at-boundary", applied) if applied else state.lasting
    failure = _failure(error, state.session.target, left, attempt=state.run.attempt)
    state.failures.append(failure)
    state.progress("failed", state.run.name, told=failure, **failure.to_dict())
    return state.report("failed")


async def looked_within(
    seconds: float | None, targets: Sequence[Target], work: Awaitable[Report]
) -> Report:
    """Await a run that changes nothing; a report of failure when it takes longer."""
    try:
        async with asyncio.timeout(seconds) as timeout:
            return await work
    except TimeoutError:
        if seconds is None or not timeout.expired():
            raise
    from automigrator.runner.time_limit import TimeIsUpError  # local: most runs have no limit

    first, *others = targets
    error = TimeIsUpError(seconds, "still looking, and nothing was changed")
    failed = TargetReport(
        first.name, "failed", failures=(_failure(error, first, Left(), attempt=0),)
    )
    return Report((failed, *(TargetReport(each.name, "not-run") for each in others)), seconds)


def _failure(error: TimeIsUpError, target: Target, left: Left, *, attempt: int) -> Failure:
    from automigrator.runner.diagnosis import diagnose  # local: only a failure needs it

    return diagnose(error, target, None, left, attempt=attempt, otherwise="timeout")
