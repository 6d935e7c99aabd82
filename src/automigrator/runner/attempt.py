"""One attempt at bringing a database to the wanted heads, under the lock."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial

from automigrator.errors import EnvError, JudgedError, LockLostError, UnknownRevisionError
from automigrator.failure import FailureKind
from automigrator.migrations.baseline import bootstrap, stamp
from automigrator.migrations.execution import Execution, WayDiffersError, left_open
from automigrator.report import Applied, Outcome, heads_text
from automigrator.runner import version_skew
from automigrator.runner.creation import create
from automigrator.runner.failures import read_after
from automigrator.runner.inspection import Finding, baseline_of, inspect, judge
from automigrator.runner.interruption import repair
from automigrator.runner.read_back import read_back
from automigrator.runner.records import edits
from automigrator.runner.records.crash_loop import count, ensure_whole
from automigrator.runner.records.leader_record import inherited
from automigrator.runner.state import RunState
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

logger = logger_of(__name__)

RUNNING = "running env.py"


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
    told, state.plan, state.finding, state.rehearsals.deferred = state.plan, "", None, ()
    state.enter("asking env.py how the database stands", "env")
    try:
        finding = await _found(state)
    except UnknownRevisionError as error:
        served = await version_skew.judged(session, state.ahead, error)
        version_skew.serve(state, served)
        state.wait.ended("current")
        return "current"
    except Exception as error:
        if state.start.stage == "not counted" and state.backend.classify(error).kind == "corrupt":
            # what is pending cannot be read, and a strategy may act on that all the same
            everything = history.steps(state.target.revision, ())
            state.plan = await in_thread(partial(history.digest, history.ids(everything)))
            await count(state)
        raise
    await edits.tell(state, finding)
    if not prepared and not (run.rebuilt and run.before):
        run.before = finding.heads  # of a fresh one they would tell nothing of the old one
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
    await _along(state, finding)
    return _reached(state)


def _reached(state: RunState) -> Outcome:
    if state.rehearsals.deferred:
        return "degraded"
    if state.failures or state.replaced:
        return "recovered"
    changed = state.applied or state.run.acts.done("stamp")
    return "migrated" if changed else "current"


async def _found(state: RunState) -> Finding:
    """Look and judge, and note what the hooks are shown of it."""
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
    state.planned()
    return finding


async def _inspected(state: RunState) -> Finding:
    """Look, and ask env.py how it reaches the database, unless a replay needs no answer."""
    replay, session, hold = state.owner.replay, state.session, state.run.hold
    asked = partial(inspect, session, hold, needs_way=True, ask=state.asks_env)
    if replay is None:
        return await asked(assume=_may_assume(state))
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
    run.pending = history.describe(finding.pending)
    state.may_commit = await in_thread(partial(history.may_commit, finding.pending))
    run.empty = not finding.heads and not finding.sight.has_tables
    run.transactional = (
        state.backend.transactional_ddl
        and finding.one_transaction
        and sum(bool(context.pending) for context in finding.contexts) <= 1
        and not state.may_commit
    )


async def _stamped(state: RunState, finding: Finding) -> bool:
    """Whether the database was given a starting point other than base."""
    run, target, table = state.run, state.target, finding.tables[0]
    migration = await state.migration()
    if target.bootstrap is not None and run.empty:
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
        with run.acts.act("stamp"):
            await stamp(migration, table, baseline)
        state.tell("stamped", revision=baseline)
    return baseline is not None


def _may_assume(state: RunState) -> bool:
    """Whether env.py may be taken to do what another target's did, until it does it.

    A hook that acts before it is told what env.py was seen to do: it chooses by that.
    """
    told = state.rehearse or state.target.bootstrap or any(state.hooks.impls("before_migrate"))
    return not (state.asks_env or told)


async def _along(state: RunState, finding: Finding) -> None:
    """Bring the database along the way that was found; where it was assumed, and is not, ask."""
    if not finding.assumed:
        return await bring(state, finding)
    first = len(state.applied)
    try:
        return await bring(state, finding)
    except LockLostError:
        raise
    except (Exception, WayDiffersError) as error:
        execution = state.execution
        assert execution is not None
        told = execution.met_a_revision or any(context.ran for context in execution.contexts)
        if told and isinstance(error, Exception):
            raise
        logger.debug("%s: env.py is asked after all: %s", state.run.name, first_line(error))
    # nothing was applied but what the plan says, by a first context of several
    done = [Applied(each, execution.done.get(each, 0.0)) for each in execution.observed.committed]
    state.asks_env, state.drive, state.execution = True, None, Execution()
    again = await _found(state)
    if not done and not state.run.acts.done("stamp"):
        state.run.before = state.after = again.heads
    state.applied[first:] = done
    await bring(state, again)


async def bring(state: RunState, finding: Finding) -> None:
    """Run what is pending, and read the heads anew: they decide, whatever env.py raised."""
    first, raised = len(state.applied), None
    if finding.pending:
        state.enter("looking for what lies about already")
        state.debris = await state.backend.debris()
        try:
            await _apply(state, finding)
        except Exception as error:
            raised = error
            if not await _ended(state, finding):
                raise
    execution = state.execution
    assert execution is not None
    kind: FailureKind = "env" if execution.error is None else "revision"
    state.enter("reading the heads that the database has now", kind)
    try:
        sight = await read_back(state)
    except Exception as error:
        raise _not_read_back(state, execution, error) from error
    state.after = sight.all_heads()
    if not finding.reached(await state.session.history(), sight):
        del state.applied[first:]  # until the database itself says which stay
        raise execution.error or EnvError(
            f"env.py returned as if all were well, and the database is at "
            f"{heads_text(state.after)}, not at {heads_text(finding.wanted)}"
            f"{left_open(execution.contexts)}"
        )
    if raised is not None:
        state.applied += [Applied(r, execution.done.get(r, 0.0)) for r in finding.pending]
        state.run.note(
            f"the migration has ended, and the database is at {heads_text(state.after)}; after "
            f"its last commit env.py raised {first_line(raised)}"
        )
    apart = [context.led_apart() for context in execution.contexts if context.led_apart]
    for each in filter(None, dict.fromkeys(apart)):
        state.run.note(each)
    if state.debris or execution.observed.torn:  # in one transaction nothing can be left
        lying: tuple[str, ...] = ()
        with suppress(Exception):  # what is migrated is all right
            lying = await state.backend.debris()
        for each in lying:
            state.run.note(f"{each}; no revision has mended that, doctor(repair=True) may")


async def _ended(state: RunState, finding: Finding) -> bool:
    """Whether all is committed although env.py raised: the answer to a COMMIT was lost, say."""
    execution = state.execution
    if execution is None or not execution.observed.committed_all(finding.pending):
        return False
    try:
        await state.hold.confirm()  # else another process may have committed it
        sight = await read_back(state)
    except Exception:  # noqa: BLE001 - what env.py raised is the one to report
        return False
    return finding.reached(await state.session.history(), sight)


def _not_read_back(state: RunState, execution: Execution, error: Exception) -> Exception:
    """What is known where env.py's connection has rights that the target's own has not."""
    committed = execution.observed.committed
    if not committed or state.backend.classify(error).kind != "auth":
        return error
    return JudgedError(
        "auth",
        f"env.py ran and committed {', '.join(committed)}, and the target's own role cannot read "
        f"that back: {first_line(error)}",
        "give the role of the target's URL the right to read the version table (GRANT SELECT), "
        "then start again",
    )


async def _apply(state: RunState, finding: Finding) -> None:
    """Run the pending revisions, along the way that was found. Raises what env.py raised."""
    replay, execution, first = state.owner.replay, state.execution, len(state.applied)
    play = None
    if replay is not None and finding.down_to is None:
        play = await replay.prepared(state, finding)
        if play is None and finding.way is None:
            finding = await inspect(state.session, state.run.hold, needs_way=True)
    way = finding.way
    assert (way is not None or play is not None) and execution is not None
    if finding.down_to is None:
        state.attempt_started(len(finding.pending))
    told = "" if way is None else way.told(context.driver for context in finding.contexts)
    state.drive = told if play is None else "replay"
    state.enter(RUNNING, "revision", revisions=True)
    try:
        if play is not None:
            await play(execution)
            return
        assert way is not None
        await state.run_revisions(
            await state.migration(),
            way,
            execution,
            state.done,
            finding.down_to,
            finding.contexts[0] if finding.assumed else None,
        )
    except BaseException:
        if not execution.met_a_revision:
            state.enter(RUNNING, "env", revisions=True)
        del state.applied[first:]  # until the database itself says which stay
        raise
