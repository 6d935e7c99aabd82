"""One attempt at bringing a database to the wanted heads, under the lock."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial

from automigrator.errors import UnknownRevisionError
from automigrator.migrations.execution import Execution
from automigrator.report import Outcome
from automigrator.runner import version_skew
from automigrator.runner.creation import create
from automigrator.runner.failures import read_after
from automigrator.runner.inspection import Finding, baseline_of, inspect, judge
from automigrator.runner.interruption import repair
from automigrator.runner.migration import AskError, along, rolls_back
from automigrator.runner.records import edits
from automigrator.runner.records.crash_loop import count, count_later, ensure_whole
from automigrator.runner.records.leader_record import inherited
from automigrator.runner.state import RunState
from automigrator.support.concurrency import in_thread


async def attempt(state: RunState) -> Outcome:
    """Bring the database to the wanted heads, or raise what prevents it."""
    session, run = state.session, state.run
    seen, state.finding, state.execution = state.finding, None, Execution()
    run.failure, state.rehearsal = None, None
    # else the journal is this run's own, not a dead leader's
    if run.taken is None and not run.rebuilt:
        with state.at("finishing or undoing what was begun before", "unreachable"):
            done = await repair(state)
        if done is not None:
            run.notes.append(done)
    state.enter("reading the revisions", "history")
    history = await session.history()
    prepared = run.acts.done("prepare")
    if not prepared and seen is not None:
        # before env.py is asked again: many may wait for their turn to be told
        state.plan = await in_thread(partial(history.digest, seen.pending))
        state.finding = seen
        if (outcome := await inherited(state)) is not None:
            await read_after(state)
            return outcome
    with suppress(AskError):
        return await _looked(state, prepared)
    state.asks_env = True
    return await _looked(state, prepared, again=True)


async def _looked(state: RunState, prepared: bool, *, again: bool = False) -> Outcome:
    """Look how the database stands, and bring it to the wanted heads; `again` env.py is asked.

    Raises AskError where env.py was not asked, and must be.
    """
    session, run = state.session, state.run
    history = await session.history()
    told, state.plan, state.finding, state.rehearsals.deferred = state.plan, "", None, ()
    state.enter("asking env.py how the database stands", "env")
    try:
        finding = await _found(state, run.pending if again else None)
    except UnknownRevisionError as error:
        if again:
            await _unwritten(state)
        served = await version_skew.judged(session, state.ahead, error)
        version_skew.serve(state, served)
        state.wait.ended("current")
        return "current"
    except Exception as error:
        if again:
            await _unwritten(state)
        if state.start.stage == "not counted" and state.backend.classify(error).kind == "corrupt":
            # what is pending cannot be read, and a strategy may act on that all the same
            everything = history.steps(state.target.revision, ())
            state.plan = await in_thread(partial(history.digest, history.ids(everything)))
            await count(state)
        raise
    await edits.tell(state, finding)
    # of a fresh one the heads would tell nothing of the old one
    known = run.before if run.rebuilt else again and (state.applied or run.acts.done("stamp"))
    if not prepared and not known:
        run.before = finding.heads
    state.after = finding.heads
    if not finding.pending and not finding.unversioned:
        state.wait.ended("current")
        await version_skew.declare(state, finding)
        return _reached(state)
    if not prepared and state.plan != told and (outcome := await inherited(state)) is not None:
        return outcome
    state.wait.ended("pending")
    state.enter("writing down that this start began")
    await count(state)
    if not prepared:
        if state.rehearse is not None:
            from automigrator.runner.rehearsals.rehearsal import rehearse  # local: few do

            finding = await rehearse(state, finding)
        if state.rehearsals.deferred:
            if not finding.pending:
                return _reached(state)
            await show(state, finding)
        await version_skew.declare(state, finding)
        with run.acts.act("prepare"):
            await state.hooks.before_migrate(run, state.hook_told)
    if await _stamped(state, finding):
        finding = await _found(state)
        if state.rehearsals.deferred:
            from automigrator.runner.rehearsals.deferral import cut

            finding = cut(finding, state.rehearsals.deferred, await session.history())
        await version_skew.declare(state, finding)
    await along(state, finding)
    return _reached(state)


def _reached(state: RunState) -> Outcome:
    if state.rehearsals.deferred:
        return "degraded"
    if state.failures or state.replaced:
        return "recovered"
    changed = state.applied or state.run.acts.done("stamp")
    return "migrated" if changed else "current"


async def _unwritten(state: RunState) -> None:
    """Take back what was written before env.py was asked, if nothing has been run since."""
    if not state.failures and not state.applied:
        await version_skew.withdraw(state)
        await count_later(state)


async def _found(state: RunState, told: object = None) -> Finding:
    """Look and judge, and note what the hooks are shown of it; `told` need not be told again."""
    history = await state.session.history()
    finding = await _inspected(state)
    if not finding.sight.exists:  # the leader that this process waited for has removed its own
        await create(state)
        finding = await _inspected(state)
    if finding.unversioned:
        await ensure_whole(state)
    elif not finding.heads and not finding.sight.has_tables:
        await state.hold.ensure_contents(state.hooks.folders)
    judge(state.target, finding)
    # it reads every pending file, and what those import
    state.plan = await in_thread(partial(history.digest, finding.pending))
    await show(state, finding)
    if told is None or state.run.pending != told:
        state.planned()
    return finding


async def _inspected(state: RunState) -> Finding:
    """Look, and ask env.py how it reaches the database, unless a replay needs no answer."""
    replay, session, hold = state.owner.replay, state.session, state.run.hold
    asked = partial(inspect, session, hold, needs_way=True, ask=state.asks_env)
    if replay is None:
        may = _may_assume(state)
        return await asked(assume=may, prove=may)
    finding = await inspect(session, hold, ask=state.asks_env)
    if finding.way is not None or not finding.pending:
        return finding
    known = await replay.completed(state, finding)
    return known or await asked(sight=finding.sight, assume=_may_assume(state))


async def show(state: RunState, finding: Finding) -> None:
    """Note what the hooks are shown of a finding."""
    run, history = state.run, await state.session.history()
    state.finding = finding
    run.wanted, run.tables = finding.wanted, finding.tables
    run.describe = partial(history.copy().describe, finding.pending)
    state.may_commit = await in_thread(partial(history.may_commit, finding.pending))
    run.empty = not finding.heads and not finding.sight.has_tables
    run.transactional = rolls_back(state, finding)


async def _stamped(state: RunState, finding: Finding) -> bool:
    """Whether the database was given a starting point other than base."""
    run, target, table = state.run, state.target, finding.tables[0]
    migration = await state.migration()
    if target.bootstrap is not None and run.empty:
        from automigrator.migrations.baseline import bootstrap  # local: few databases begin so

        began = time.monotonic()
        state.enter("running bootstrap")
        state.tell("bootstrap-started")
        if state.hold.untouched:
            assert state.hold.snapshots is not None
            await state.hold.snapshots.committing()
        with run.acts.act("stamp"):
            done = await bootstrap(migration, finding.contexts[0])
        if done.made:
            state.tell("bootstrapped", revision=done.revision, seconds=time.monotonic() - began)
        if done.note:
            run.note(done.note)
        return done.made
    baseline = baseline_of(target, finding)
    if baseline is not None:
        from automigrator.migrations.baseline import stamp  # local: as above

        with run.acts.act("stamp"):
            await stamp(migration, table, baseline)
        state.tell("stamped", revision=baseline)
    return baseline is not None


def _may_assume(state: RunState) -> bool:
    """Whether env.py may be expected to do what is likely, until it does it."""
    # a hook that acts before chooses by what env.py was seen to do
    told = state.rehearse or state.target.bootstrap or any(state.hooks.impls("before_migrate"))
    return not (state.asks_env or told)
