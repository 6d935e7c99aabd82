"""One target's part of a run, step by step: reach, look, lock, attempt, answer, report."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from automigrator.errors import LockTimeoutError, PluginError
from automigrator.hooks.decisions import Decisions
from automigrator.report import Outcome
from automigrator.runner import version_skew
from automigrator.runner.creation import create, undo_creation
from automigrator.runner.failures import answered, failed, look_again
from automigrator.runner.inspection import Finding, judge
from automigrator.runner.interruption import cut_short, ran_out, whole
from automigrator.runner.records import edits
from automigrator.runner.records.crash_loop import CrashLoopError, last_resort
from automigrator.runner.records.leader_record import leave
from automigrator.runner.retry import patiently, reach
from automigrator.runner.state import RunState
from automigrator.support.concurrency import shielded
from automigrator.support.loggers import logger_of

logger = logger_of(__name__)


async def bring_to_head(state: RunState) -> Outcome:
    """Migrate one target and say how that ended; `failed` when no plugin told the run to go on.

    Every error but a cancellation becomes a failure that the plugins are asked about. Raises
    PluginError, nothing touched, when a strategy that is named cannot be used.
    """
    run = state.run
    async with AsyncExitStack() as lock:
        try:
            if await _at_head(state):
                return "current"
            state.enter("loading the plugins")
            await load_plugins(state)
            state.enter("taking the migration lock", "lock-timeout")
            await lock.enter_async_context(state.locked())
        except PluginError:
            raise
        except Exception as error:  # noqa: BLE001 - any error is a failure of the target
            run.attempt = 1
            if isinstance(error, LockTimeoutError):
                state.wait.ended("timeout")
            await load_plugins(state)
            return await answered(state, error) or "failed"
        try:
            outcome = await closed(state, await _attempts(state))
        except asyncio.CancelledError:
            if not state.limit.is_over():
                state.attempt_finished("cancelled")
                await shielded(cut_short(state))
                raise
            await shielded(ran_out(state))
            outcome = "failed"
        else:
            state.enter("writing down how it ended")
            if state.leads:
                await leave(state, outcome)
            if outcome == "failed":
                await undo_creation(state)
        if outcome in ("migrated", "recovered"):
            state.how_far = whole(state)
            await edits.keep(state)
            report = state.report(outcome)
            run.notes += await state.hooks.after_migrate(run, report, state.hook_told)
        run.hold = None
    state.enter("emptying the application's pool")
    # whoever changed the schema: this process, or one that it waited for
    await state.backend.refresh()
    return outcome


async def closed(state: RunState, outcome: Outcome) -> Outcome:
    """Forget the journal before the application serves: a later undo would lose what it wrote."""
    acts = state.run.acts
    if acts.open("restore") or acts.open("recover"):
        return outcome
    if outcome == "failed" and state.run.taken is not None and state.lasting.state == "unknown":
        state.run.note(f"the next start looks whether {state.run.taken.place} is to be put back")
        return outcome
    state.enter("closing the journal", "unreachable")
    try:
        await state.hold.close_journal()
    except Exception as error:  # noqa: BLE001 - any error is a failure of the target
        await failed(state, error)  # nobody is asked: what was migrated is all right
        return "failed"
    return outcome


async def load_plugins(state: RunState) -> None:
    """Load the strategies: only now may they be needed."""
    hooks = state.hooks = state.progress.listeners = await state.owner.hooks_of(state.target)
    look = partial(look_again, state)
    state.decisions = Decisions(
        state.run, state.owner.allow_partial, look, hooks, state.hook_told, state.journal_open
    )


async def _at_head(state: RunState) -> bool:
    """Look without the lock, and create what is missing; return whether nothing is to do."""
    session, run = state.session, state.run
    if session.commons is not None and session.commons.is_behind(state.target, forget=True):
        return False  # a look has just told; all else is looked at under the lock
    try:
        sight = await reach(state)
    except Exception as error:
        if state.backend.classify(error).kind != "corrupt":
            raise
        examiner = session.examiner()
        state.unfinished = examiner is not None and await examiner.unfinished()
        return False  # only under the lock may a strategy act on it
    run.before = state.after = sight.all_heads()
    if sight.unfinished:
        return False
    seen = sight if sight.exists else None
    if seen is None:
        await create(state)
    state.enter("reading the revisions, and how the database stands")
    try:
        finding = await version_skew.inspected(session, state.ahead, seen)
        if isinstance(finding, version_skew.Served):
            version_skew.serve(state, finding)
            return True
        judge(state.target, finding)
    except Exception as error:  # noqa: BLE001 - looked at again, and judged, under the lock
        logger.debug("%s: looking without the lock: %s", run.name, type(error).__name__)
        return False
    state.finding = finding
    for note in finding.notes:
        run.notes.append(note)
        state.tell("no-revisions", text=note)
    run.before = state.after = finding.heads
    run.wanted = finding.wanted
    if not finding.pending:
        await edits.tell(state, finding)
    if finding.pending and not finding.sight.writable:
        state.finding = None
        await reach(state, to_write=True)  # the lock refuses what is a standby even then
    if finding.pending or finding.unversioned:
        return False
    await _advise(state, finding)
    return True


async def _advise(state: RunState, finding: Finding) -> None:
    """Say how a start with nothing to do is spared env.py, where it had to be asked."""
    table, proof = finding.tables[0], (await state.session.history()).proof
    if finding.way is None or proof.table or not proof.folders or len(finding.tables) > 1:
        return
    schema = "" if table.schema is None else f", version_table_schema={table.schema!r}"
    logger.info(
        "%s: nothing is to do; env.py was run to learn that, as its syntax does not prove one "
        "version table. Target(version_table=%r%s) spares every such start that; target_of() takes "
        "the same",
        state.run.name,
        table.name,
        schema,
    )


async def _attempts(state: RunState) -> Outcome:
    """Make attempts, as often as the plugins ask for one and the core grants it."""
    while True:
        state.run.attempt += 1
        try:
            outcome: Outcome | None = await patiently(state)
        except CrashLoopError as loop:
            return await last_resort(state, loop.record)
        except Exception as error:  # noqa: BLE001 - any error is a failure of the target
            outcome = await answered(state, error)
        else:
            state.attempt_finished("applied")
        if outcome is not None:
            return outcome
