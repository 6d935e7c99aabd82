"""Downgrades one target, under its lock; nobody is asked about a failure."""

from __future__ import annotations

import time

from automigrator.errors import EnvError, JudgedError
from automigrator.migrations.causes import left_open
from automigrator.migrations.execution import Execution
from automigrator.migrations.probe import probe
from automigrator.report import Outcome
from automigrator.runner.diagnosis import failure_of
from automigrator.runner.failures import left_behind, read_after
from automigrator.runner.inspection import inspect
from automigrator.runner.interruption import repair
from automigrator.runner.state import Left, RunState
from automigrator.runner.targets import ended_by


async def roll_back(state: RunState, revision: str) -> Outcome:
    """Run the downgrades from the database's heads to `revision`; `failed` with the failure."""
    began = time.monotonic()
    database, url = state.backend.name, state.target.url
    state.tell("rollback-started", revision=revision, database=database, url=url)
    outcome = "failed"
    try:
        outcome = answer = await _outcome(state, revision)
        return answer
    except BaseException as error:
        outcome = ended_by(error)
        raise
    finally:
        seconds = time.monotonic() - began
        state.tell("rollback-finished", revision=revision, outcome=outcome, seconds=seconds)


async def _outcome(state: RunState, revision: str) -> Outcome:
    state.run.attempt = 1
    try:
        async with state.locked():
            return await _rolled_back(state, revision)
    except Exception as error:  # noqa: BLE001 - any error is the target's failure
        failure = failure_of(state, error, await _left(state))
        state.failed(failure, f"rollback failed: {failure}")
        return "failed"


async def _rolled_back(state: RunState, revision: str) -> Outcome:
    session, run, backend = state.session, state.run, state.backend
    done = await repair(state)
    if done is not None:
        run.notes.append(done)
    history = await session.history()
    finding = state.finding = await inspect(session, run.hold)
    if not finding.sight.exists:
        raise JudgedError("unreachable", "the database does not exist; there is nothing to undo")
    run.before = state.after = finding.heads
    migration = await state.migration()
    way, probed = await probe(migration)
    state.drive = way.told(context.driver for context in probed.contexts)
    state.execution = Execution()
    state.enter("rolling back", "revision", revisions=True)
    steps = history.ids(history.steps(revision, finding.heads, down=True))
    await state.run_revisions(migration, way, state.execution, state.done, revision)
    state.after = (await state.look()).all_heads()
    if history.applied(steps, state.after):
        raise state.execution.error or EnvError(
            f"env.py returned as if all were well, and the database still has "
            f"{', '.join(history.applied(steps, state.after))}"
            f"{left_open(state.execution.contexts)}"
        )
    await backend.refresh()
    return "migrated" if steps else "current"


async def _left(state: RunState) -> Left:
    """What a failed rollback left, and in the report what it undid for good."""
    if state.finding is None or state.execution is None:
        return Left()
    history = await state.session.history()
    left = await left_behind(state)
    await read_after(state)
    undone = [each.revision for each in state.applied]
    kept = history.applied(undone, state.after)
    state.applied = [each for each in state.applied if each.revision not in kept]
    if state.applied and left.state == "clean":
        return left._replace(state="partial-at-boundary")
    return left
