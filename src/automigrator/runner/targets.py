"""Runs the targets in order, within the time limit, and tells where each begins and ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Literal

from automigrator.errors import MigrationError
from automigrator.hooks.calls import GRACE_S
from automigrator.printable import escaped
from automigrator.report import Report, TargetReport
from automigrator.runner.session import Session, opened
from automigrator.runner.state import Left, RunState
from automigrator.runner.time_limit import TimeIsUpError, limit_text
from automigrator.support.concurrency import shielded
from automigrator.support.redaction import said
from automigrator.target import passwords_of

if TYPE_CHECKING:
    from automigrator.events.notifier import Notifier
    from automigrator.report import Outcome
    from automigrator.runner.modes import Mode
    from automigrator.status import TargetStatus
    from automigrator.target import Target


async def run_told(
    tell: Notifier,
    mode: Mode,
    targets: Sequence[Target],
    work: Callable[[Notifier], Awaitable[Report]],
) -> Report:
    """Await one run's work. Raises what it raises."""
    began = time.monotonic()
    names = [target.name for target in targets]
    told = f"migration run started: {', '.join(map(escaped, names))}"
    tell("run-started", told=told, mode=mode, targets=names)

    def finished(told: object, reports: Sequence[TargetReport], **data: object) -> None:
        tell("run-finished", told=told, targets={e.name: e.outcome for e in reports}, **data)

    try:
        report = await work(tell)
    except BaseException as error:
        seconds, name, outcome = time.monotonic() - began, type(error).__name__, ended_by(error)
        reports = error.report.targets if isinstance(error, MigrationError) else ()
        told = f"migration run: {outcome} in {seconds:.2f} s ({name})"
        finished(told, reports, outcome=outcome, error=name, seconds=seconds)
        raise
    seconds = report.elapsed_s
    finished(report, report.targets, outcome=report.outcome, error=None, seconds=seconds)
    return report


async def targets_told(
    targets: Sequence[Target],
    looked: Session | None,
    begun: Callable[..., AbstractAsyncContextManager[RunState]],
    reports: list[TargetReport],
) -> None:
    """Do every target's part of a run, until one fails.

    `looked`: the session of the first, where a look has found that there is something to do.
    `begun` gets a session and gives the state of its run. `reports` gets each target's, also that
    of one whose part is cut short. Raises what the Migrator's `migrate_target` raises.
    """
    for target in targets:
        if any(report.outcome == "failed" for report in reports):
            reports.append(TargetReport(target.name, "not-run"))
            continue
        async with AsyncExitStack() as stack:
            session = looked or await stack.enter_async_context(opened(target))
            state = await stack.enter_async_context(begun(session, looked=looked is not None))
            await target_told(state, reports)
        looked = None


async def target_told(state: RunState, reports: list[TargetReport]) -> None:
    """Await one target's part of a run. Raises what it raises."""
    state.tell("target-started", database=state.backend.name, url=state.target.url)

    def finished(report: TargetReport) -> None:
        reports.append(report)
        data = report.to_dict()
        del data["name"], data["reverted"]
        state.tell("target-finished", **data)

    await followed_up(state, _within_limit(state), finished)


async def followed_up(
    state: RunState, work: Awaitable[TargetReport], tell: Callable[[TargetReport], None]
) -> TargetReport:
    """Await a target's part of a run, or a rollback, and let `after_run` follow, however it ended.

    `tell` is called with the report. Raises what the work raises.
    """
    try:
        report = await work
    except BaseException as error:
        report = state.report(ended_by(error))
        try:
            if isinstance(error, Exception | asyncio.CancelledError):
                report = await shielded(_noted(state, report, GRACE_S))
        finally:
            tell(report)
        raise
    try:
        report = await _noted(state, report, state.limit.left_s(GRACE_S))
    finally:
        tell(report)
    return report


async def _noted(state: RunState, report: TargetReport, within_s: float | None) -> TargetReport:
    """Call `after_run`; returns the report with what its hooks noted, and their errors."""
    run, before = state.run, len(state.run.notes)
    errors = await state.hooks.after_run(run, report, state.hook_told, within_s)
    more = (*run.notes[before:], *errors)
    return report._replace(notes=(*report.notes, *more)) if more else report


def succeeded(report: Report) -> Report:
    """Return the report, unless a target failed. Raises MigrationError then."""
    for target in report.targets:
        if target.outcome == "failed":
            raise MigrationError(target.screen(), report)
    return report


def ended_early(
    targets: Sequence[Target], reports: Sequence[TargetReport], error: BaseException, began: float
) -> Report:
    """The report of a run that raised `error`; `reports` are the targets' parts so far."""
    if isinstance(error, MigrationError):
        return error.report
    known = {each.name: each for each in reports}
    status = getattr(error, "status", None)
    for each in status.targets if status is not None else ():
        known[each.name] = _looked_at(each)
    rest = (known.get(each.name) or TargetReport(each.name, "not-run") for each in targets)
    cut_short = isinstance(error, asyncio.CancelledError)
    reason = "" if cut_short else said(error, ()).partition("\n")[0]
    return Report(tuple(rest), time.monotonic() - began, reason)


def _looked_at(status: TargetStatus) -> TargetReport:
    """The part of a target that a run has only looked at."""
    problem = () if status.problem is None else (status.problem,)
    outcome: Outcome = "failed" if problem else "current" if status.current else "not-run"
    heads = status.heads
    return TargetReport(status.name, outcome, heads, heads, failures=problem, notes=status.notes)


def ended_by(error: BaseException) -> Literal["cancelled", "failed"]:
    """The outcome of what raised."""
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"


def time_is_up(state: RunState) -> TimeIsUpError:
    """The error of a run whose time is over: what it waited for, or did."""
    limit, execution = limit_text(state.limit.seconds, state.limit.given), state.execution
    if (last := state.unreached) is not None:
        found, target = state.backend.classify(last), state.target
        what = f"{state.phase.what}; the last error: {said(last, passwords_of(target))}"
        return TimeIsUpError(limit, what, kind=found.kind or "unreachable", advice=found.advice)
    if state.phase.revisions and execution is not None and execution.current is not None:
        what = f"running revision {execution.current}, which was stopped"
        return TimeIsUpError(limit, what, execution.statement)
    return TimeIsUpError(limit, state.phase.what)


async def _within_limit(state: RunState) -> TargetReport:
    """Await one target's part of a run; as long as the run has time, and then report that."""
    try:
        async with state.limit.begin() as timeout:
            return await state.owner.migrate_target(state.run)
    except TimeoutError:
        if not timeout.expired():
            raise
    # the attempts answer for what they began; here nothing was, or all of it is committed
    applied = tuple(each.revision for each in state.applied)
    left = Left("partial-at-boundary", applied) if applied else state.lasting
    from automigrator.runner.diagnosis import failure_of  # local: only a failure needs it

    failure = failure_of(state, time_is_up(state), left)
    state.failed(failure, failure.headline)
    return state.report("failed")


async def looked_within(
    seconds: float | None, targets: Sequence[Target], work: Awaitable[Report], given: str = ""
) -> Report:
    """Await a run that changes nothing; a report of failure when it takes longer."""
    try:
        async with asyncio.timeout(seconds) as timeout:
            return await work
    except TimeoutError:
        if seconds is None or not timeout.expired():
            raise
    from automigrator.runner.diagnosis import diagnose  # local: only a failure needs it

    first, *others = targets
    error = TimeIsUpError(limit_text(seconds, given), "still looking, and nothing was changed")
    failure = diagnose(error, first, None, Left(), attempt=0, otherwise="timeout")
    failed = TargetReport(first.name, "failed", failures=(failure,))
    return Report((failed, *(TargetReport(each.name, "not-run") for each in others)), seconds)
