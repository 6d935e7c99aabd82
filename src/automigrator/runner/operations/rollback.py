"""Downgrades one target, under its lock, with the snapshot, journal and failure of a run."""

from __future__ import annotations

import asyncio
import time

from automigrator.errors import HistoryError
from automigrator.migrations.execution import Execution
from automigrator.report import Outcome, TargetReport
from automigrator.runner.attempt import show
from automigrator.runner.failures import described, read_after, told
from automigrator.runner.inspection import inspect_down
from automigrator.runner.interruption import cut_short, repair, whole
from automigrator.runner.migration import bring
from automigrator.runner.pipeline import closed, load_plugins
from automigrator.runner.records.edits import keep
from automigrator.runner.state import Left, RunState
from automigrator.runner.targets import followed_up
from automigrator.support.concurrency import shielded
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

logger = logger_of(__name__)


async def roll_back(state: RunState, revision: str) -> TargetReport:
    """Run the downgrades from the database's heads to `revision`; a failure is in the report.

    Raises PluginError, nothing touched, when a strategy that is named cannot be used.
    """
    began = time.monotonic()
    database, url = state.backend.name, state.target.url
    state.tell("rollback-started", revision=revision, database=database, url=url)
    state.run.attempt, state.run.rollback = 1, True

    def finished(report: TargetReport) -> None:
        seconds, reverted = time.monotonic() - began, [each.revision for each in report.reverted]
        how = {"outcome": report.outcome, "reverted": reverted, "seconds": seconds}
        state.tell("rollback-finished", revision=revision, **how)

    return await followed_up(state, _reported(state, revision), finished)


async def _reported(state: RunState, revision: str) -> TargetReport:
    return state.report(await _outcome(state, revision))


async def _outcome(state: RunState, revision: str) -> Outcome:
    run = state.run
    await load_plugins(state)
    try:
        await _ensure_asked(state, revision)
        state.enter("taking the migration lock", "lock-timeout")
        async with state.locked():
            try:
                outcome = await closed(state, await _answered(state, revision))
            except asyncio.CancelledError:
                await shielded(cut_short(state))
                raise
            if outcome == "reverted":
                state.how_far = whole(state)
                await keep(state)
                report = state.report(outcome)
                run.notes += await state.hooks.after_migrate(run, report, state.hook_told)
            run.hold = None
        await state.backend.refresh()
    except Exception as error:  # noqa: BLE001 - any error is the target's failure
        await _failed(state, error)
        return "failed"
    return outcome


async def _ensure_asked(state: RunState, revision: str) -> None:
    """Raise HistoryError for a revision that is mistyped: nobody is to wait for the lock for it."""
    state.enter("reading the revisions", "history")
    try:
        history = await state.session.history()
    except Exception as error:  # noqa: BLE001 - env.py may be needed to read them
        logger.debug("%s: reading the revisions: %s", state.run.name, first_line(error))
        return
    if not history.proof.folders:
        return  # env.py may name other ones
    try:
        history.ensure_way_back(revision)
    except HistoryError:
        raise
    except Exception as error:  # noqa: BLE001 - it is met again, and told, under the lock
        logger.debug("%s: looking for %s: %s", state.run.name, revision, first_line(error))


async def _answered(state: RunState, revision: str) -> Outcome:
    """Roll back; where that fails, ask the strategies that revert, and nobody else."""
    try:
        return await _rolled_back(state, revision)
    except Exception as error:  # noqa: BLE001 - any error is the target's failure
        await _failed(state, error)
    state.enter("asking the plugins about a failure")
    await state.decisions.decide(state.failures[-1])
    state.lasting = Left.of(state.run.failure or state.failures[-1])
    await read_after(state)
    return "failed"


async def _failed(state: RunState, error: Exception) -> None:
    failure = await described(state, error)
    told(state, failure, "rollback failed")


async def _rolled_back(state: RunState, revision: str) -> Outcome:
    session, run = state.session, state.run
    with state.at("finishing or undoing what was begun before", "unreachable"):
        done = await repair(state)
    if done is not None:
        run.notes.append(done)
    state.enter("asking env.py how the database stands", "env")
    finding = await inspect_down(session, state.hold, revision)
    run.before = state.after = finding.heads
    await show(state, finding)
    if not finding.pending:
        return "current"
    state.execution = Execution()
    with run.acts.act("prepare"):
        await state.hooks.before_migrate(run, state.hook_told)
    if run.taken is not None:
        run.note(f"what the database held before the rollback is in {run.taken.place}")
    await bring(state, finding)
    return "reverted"
