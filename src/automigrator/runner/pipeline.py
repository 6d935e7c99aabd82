"""One target's part of a run, step by step: reach, look, lock, attempt, answer, report."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack

from automigrator.backends.contract.values import Sight
from automigrator.errors import JudgedError, PluginError, UnknownRevisionError
from automigrator.failure import Decision
from automigrator.hooks.decisions import Decisions
from automigrator.report import Outcome
from automigrator.runner import version_skew
from automigrator.runner.attempt import Inherited, Reached, Result, attempt
from automigrator.runner.crash_loop import CrashLoopError, last_resort
from automigrator.runner.failures import answered, failed, look_again
from automigrator.runner.inspection import inspect, judge
from automigrator.runner.interruption import cut_short, ran_out
from automigrator.runner.leader_record import leave
from automigrator.runner.retry import patiently, reach
from automigrator.runner.state import RunState
from automigrator.support.concurrency import shielded

logger = logging.getLogger(__name__)


async def bring_to_head(state: RunState) -> Outcome:
    """Migrate one target and say how that ended; `failed` when no plugin told the run to go on.

    Every error but a cancellation becomes a failure that the plugins are asked about. Raises
    PluginError, nothing touched, when a strategy that is named cannot be used.
    """
    run = state.run
    decisions = Decisions(
        run,
        state.policy.allow_partial,
        lambda failure: look_again(state, failure),
        around=state.hook_told,
    )
    async with AsyncExitStack() as lock:
        try:
            if await _at_head(state):
                return "current"
            state.enter("loading the plugins")
            await _load_plugins(state, decisions)
            await _lock(state, lock)
        except PluginError:
            raise
        except Exception as error:  # noqa: BLE001 - any error is a failure of the target
            run.attempt = 1
            await _load_plugins(state, decisions)
            decision = await answered(state, decisions, error)
            return "degraded" if decision is Decision.CONTINUE else "failed"
        result: Result | None = None
        try:
            outcome, result = await _attempts(state, decisions)
            outcome = await _closed(state, outcome)
        except asyncio.CancelledError:
            if state.limit is None or not state.limit.is_over():
                state.attempt_finished("cancelled")
                await shielded(cut_short(state))
                raise
            await shielded(ran_out(state, leaves=_leaves(result)))
            outcome = "failed"
        else:
            state.enter("writing down how it ended")
            if _leaves(result):
                await leave(state, outcome)
        if outcome in ("migrated", "recovered"):
            report = state.report(outcome)
            run.notes += await state.hooks.after_migrate(run, report, state.hook_told)
        run.hold = None
    state.enter("emptying the application's pool")
    # whoever changed the schema: this process, or one that it waited for
    await state.session.backend.refresh()
    return outcome


def _leaves(result: Result | None) -> bool:
    """Whether a run that ended so says something new to those that come after it."""
    return result is None or isinstance(result, Reached)


async def _closed(state: RunState, outcome: Outcome) -> Outcome:
    """Forget the journal before the application serves: a later undo would lose what it wrote."""
    acts = state.run.acts
    if acts.open("restore") or acts.open("recover") or state.hold is None:
        return outcome
    state.enter("closing the journal")
    try:
        await state.hold.close_journal()
    except Exception as error:  # noqa: BLE001 - any error is a failure of the target
        state.enter("closing the journal", "unreachable")
        await failed(state, error)  # nobody is asked: what was migrated is all right
        return "failed"
    return outcome


async def _load_plugins(state: RunState, decisions: Decisions) -> None:
    """Load the strategies: only now may they be needed."""
    hooks = await state.owner.hooks_of(state.session.target)
    state.hooks = state.progress.listeners = decisions.hooks = hooks


async def _at_head(state: RunState) -> bool:
    """Step 2: whether there is nothing to do, by a look without the lock."""
    session, run = state.session, state.run
    backend = session.backend
    try:
        sight = await _reached(state)
    except Exception as error:
        if backend.classify(error).kind != "corrupt":
            raise
        examiner = backend.examiner([session.table])
        state.unfinished = examiner is not None and await examiner.unfinished()
        return False  # only under the lock may a strategy act on it
    run.before = state.after = sight.all_heads()
    if sight.unfinished:
        return False
    if not sight.exists:
        await _create(state)
    state.enter("reading the revisions, and how the database stands")
    try:
        try:
            finding = await inspect(session)
        except UnknownRevisionError as error:
            await version_skew.serve(state, error)
            return True
        judge(session.target, finding)
    except Exception as error:  # noqa: BLE001 - looked at again, and judged, under the lock
        logger.debug("%s: looking without the lock: %s", run.name, type(error).__name__)
        return False
    state.finding = finding
    run.before = state.after = finding.heads
    run.wanted = finding.wanted
    if finding.pending and not finding.sight.writable:
        state.finding = None
        await _reached(state, to_write=True)  # the lock refuses what is a standby even then
    return not finding.pending and not finding.unversioned


async def _reached(state: RunState, *, to_write: bool = False) -> Sight:
    """Step 3; during a fail-over the address may lead to a standby that is yet to be promoted."""
    session = state.session
    what = "a standby to be promoted" if to_write else "the database server"
    waited_s = 0.0

    def waiting(seconds: float) -> None:
        nonlocal waited_s
        waited_s = seconds
        state.enter(f"waiting for {what}")
        state.progress("waiting", state.run.name, on="server", what=what, seconds=seconds)

    sight = await reach(
        session.backend,
        lambda: state.look([session.table]),
        session.target.connect_timeout,
        waiting,
        lambda sight: sight.writable or not to_write,
    )
    if waited_s and (sight.writable or not to_write):
        state.progress("reached", state.run.name, waited_s=waited_s)
    return sight


async def _create(state: RunState) -> None:
    target = state.session.target
    if not target.create:
        raise JudgedError(
            "unreachable",
            f"the database {target.url} does not exist, and Target(create=False) says not to "
            "create it; nothing was changed",
            "create the database, or leave create=False out",
        )
    began = time.monotonic()
    state.enter("creating the database")
    state.progress("create-started", state.run.name)
    ours = await state.owner.create_database(state.run)
    state.progress("created", state.run.name, ours=ours, seconds=time.monotonic() - began)


async def _lock(state: RunState, stack: AsyncExitStack) -> None:
    """Step 5."""
    session = state.session
    state.enter("taking the migration lock", "lock-timeout")
    looked_s = time.monotonic() - state.began
    lock = session.backend.lock([session.table], session.target.lock_timeout, state.waiting)
    state.hold = state.run.hold = hold = await stack.enter_async_context(lock)
    hold.since -= looked_s  # a leader that failed while this run only looked binds it, too
    state.progress("locked", state.run.name, waited_s=hold.waited_s)


async def _attempts(state: RunState, decisions: Decisions) -> tuple[Outcome, Result | None]:
    """Steps 6 to 8, as often as the plugins ask for it and the core grants it.

    The result is the last attempt's, None where it failed.
    """
    run = state.run
    while True:
        run.attempt += 1
        try:
            result = await patiently(state, lambda: attempt(state))
        except CrashLoopError as loop:
            return await last_resort(state, decisions, loop.record), None
        except Exception as error:  # noqa: BLE001 - any error is a failure of the target
            decision = await answered(state, decisions, error)
        else:
            state.attempt_finished("applied")
            if isinstance(result, Inherited):
                return result.outcome, result
            if not isinstance(result, Reached):
                return "current", result
            if state.failures:
                return "recovered", result
            changed = state.applied or run.acts.done("stamp")
            return "migrated" if changed else "current", result
        if decision is not Decision.RETRY:
            return "degraded" if decision is Decision.CONTINUE else "failed", None
