"""Makes a failure of an error, and asks the plugins about it."""

from __future__ import annotations

import asyncio

from automigrator.errors import EnvError, JudgedError, LockLostError
from automigrator.failure import Decision, Failure
from automigrator.migrations.created_tables import there_already
from automigrator.report import Applied, Outcome
from automigrator.runner.diagnosis import failure_of
from automigrator.runner.read_back import TRANSIENT
from automigrator.runner.state import Left, RunState
from automigrator.support.error_chain import chain
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

logger = logger_of(__name__)

HASTE_S = 2.0
"""Seconds for questions to a database that is most likely out of reach."""

UNSEEN = (
    "; what stayed in the database is not known: make sure that it can be read, and start again. A "
    "start looks before it changes anything"
)


async def answered(state: RunState, error: Exception) -> Outcome | None:
    """Make an error a failure, and ask the plugins about it.

    Returns how the run ends then; None when they ask for another attempt.
    """
    failure = await failed(state, error)
    if state.limit.is_over():
        await read_after(state, HASTE_S)
        return "failed"
    state.enter("asking the plugins about a failure")
    decision, whose = await state.decisions.decide(failure)
    state.lasting = Left.of(state.run.failure or failure)
    if decision is None:
        state.tell("passed", done=_passed(state))
    else:
        state.tell("decided", decision=decision.value, plugin=whose)
    if decision is Decision.RETRY:
        return None
    await read_after(state, HASTE_S if failure.kind == "unreachable" else None)
    return "degraded" if decision is Decision.CONTINUE else "failed"


def _passed(state: RunState) -> str:
    """Say what was done about a failure after which nobody told the run to go on."""
    run = state.run
    if run.restored and run.taken is not None:
        done = f"the database was put back from {run.taken.place}"
    elif run.rebuilt:
        done = "a fresh database has taken the place of the old one"
    else:
        return "no plugin decided what to do"
    return f"{done}, and no plugin let the application start or asked for another attempt"


async def failed(state: RunState, error: Exception, within_s: float | None = None) -> Failure:
    """Make an error a failure of this attempt, and tell; see `described`."""
    failure = await described(state, error, within_s)
    told(state, failure, f"attempt {state.run.attempt} failed")
    state.attempt_finished("failed")
    return failure


def told(state: RunState, failure: Failure, what: str) -> None:
    """Tell a failure in a line; the exception, or the report, has all of it for a person."""
    state.failed(failure, f"{what}: {failure.headline}; state: {failure.state}")
    if failure.error is not None:
        logger.debug("%s: what was raised", state.run.name, exc_info=failure.error)


async def described(state: RunState, error: Exception, within_s: float | None = None) -> Failure:
    """Return the failure that an error is, with the state it left; note what stays applied.

    `within_s`: seconds in which the database is asked for the state alone, where time is short.
    """
    if within_s is None:
        error = await _or_lock_lost(state, error)
        if isinstance(error, JudgedError) and error.kind == "unreachable":
            within_s = HASTE_S  # it has just been waited for
    left = await _left(state, within_s)
    failure = failure_of(state, error, left)
    if state.execution is not None:
        seconds = state.execution.done
        new = set(failure.applied) - {each.revision for each in state.applied}
        state.applied += [Applied(r, seconds.get(r, 0.0)) for r in failure.applied if r in new]
    hints = await _hints(state, failure) if within_s is None else ()
    hints = tuple(filter(None, (left.hint, *hints)))
    message = failure.message
    blockers = state.blockers() if state.blockers is not None else ()
    if failure.kind == "lock-timeout" and blockers:
        message += f"; in the way: {', '.join(blockers)}"
    advice = failure.advice + (UNSEEN if failure.state == "unknown" else "")
    return failure._replace(
        message=message,
        advice=advice,
        hints=hints,
        in_rehearsal=state.rehearsal is not None,
        rollback=state.run.rollback,
    )


async def _hints(state: RunState, failure: Failure) -> tuple[str, ...]:
    """What lay about before the attempt, and the tables that what is still pending creates."""
    finding = state.finding
    if finding is None or state.execution is None:
        return ()
    if finding.down_to is not None:
        return state.debris
    pending = [each for each in finding.pending if each not in failure.applied]
    found: tuple[str, ...] = ()
    if len(finding.contexts) == 1:
        try:
            if (examiner := state.session.examiner()) is not None:
                history, torn = await state.session.history(), state.execution.observed.torn
                found = await there_already(examiner, history, pending, torn)
        except Exception as error:  # noqa: BLE001 - the error that brought us here matters
            logger.debug("%s: looking for debris: %s", state.run.name, type(error).__name__)
    return (*state.debris, *found)


async def _or_lock_lost(state: RunState, error: Exception) -> Exception:
    """The error, or what is behind it: the lock is gone, and a next holder ended our sessions.

    Without the lock no strategy may act: another process may be at the database by now.
    """
    run, backend = state.run, state.backend
    lost = next((each for each in chain(error) if isinstance(each, LockLostError)), None)
    if lost is None and run.hold is not None:
        try:
            await run.hold.confirm()
            if isinstance(error, EnvError):  # env.py may be led elsewhere because the address is
                await backend.access.let_go()
                await run.hold.look([state.session.table])
        except LockLostError as gone:
            gone.__cause__, lost = error, gone
        except Exception as gone:  # noqa: BLE001 - it tells nothing about the lock
            logger.debug("%s: looking again: %s", run.name, type(gone).__name__)
    if lost is None:
        return error
    run.hold = None
    try:
        await backend.access.let_go()  # what went with the lock's session does not answer, either
        await backend.look([state.session.table])
    except Exception as gone:  # noqa: BLE001 - it only tells why the lock was lost
        if backend.classify(gone).kind == "unreachable":
            return JudgedError(
                "unreachable",
                "the database server went away while it was being migrated: this run was "
                f"{state.phase.what} ({first_line(gone)}); it rolls back what was not committed",
            )
    return lost


async def look_again(state: RunState, failure: Failure) -> Failure:
    """Return the failure with the state that the database is in now."""
    left = await _left(state)
    advice = failure.advice.removesuffix(UNSEEN) + (UNSEEN if left.state == "unknown" else "")
    state_now = {"state": left.state, "applied": left.applied, "debris": left.debris}
    if left.hint and left.hint not in failure.hints:
        state_now["hints"] = (left.hint, *failure.hints)
    return failure._replace(**state_now, advice=advice)


async def settle(state: RunState, failure: Failure) -> None:
    """Look at what could not be looked at, before another attempt.

    Raises what looking raises, and the failure's own error where half a revision has stayed.
    """
    await state.look()
    state.lasting = await _left(state)
    if state.lasting.state == "partial-within-revision" and failure.error is not None:
        raise failure.error


async def _left(state: RunState, within_s: float | None = None) -> Left:
    if state.run.acts.open("recover"):
        # a dead leader's half is still there, and the next start must try again
        return Left("partial-within-revision")
    if state.rehearsal is not None:
        return Left(revision=state.rehearsal.current).after(state.lasting)
    left = (await left_behind(state, within_s)).after(state.lasting)
    return await _compared(state, left, within_s) if left.state == "clean" else left


async def _compared(state: RunState, left: Left, within_s: float | None) -> Left:
    """Compare a database that seems clean with this run's snapshot, under the lock."""
    run, execution = state.run, state.execution
    ran = execution is not None and execution.met_a_revision and state.finding is not None
    # what has no version row yet gets its table from env.py, or was stamped before
    if not ran or run.taken is None or not run.taken.heads or run.acts.began("stamp"):
        return left
    if run.hold is None or run.hold.snapshots is None or run.rebuilt:
        return left
    try:
        async with asyncio.timeout(within_s):
            heads = (await state.look()).all_heads()
            if not (await state.session.history()).knows(heads):
                return left  # newer code has migrated it meanwhile
            same = heads == tuple(sorted(run.taken.heads))
            if same and not await run.hold.snapshots.differs(run.taken):
                return left
    except Exception as error:  # noqa: BLE001 - the error that brought us here is the one to report
        logger.debug("%s: comparing with the snapshot: %s", run.name, first_line(error))
        if isinstance(error, TimeoutError) or state.backend.classify(error).kind in TRANSIENT:
            assert execution is not None
            state.unseen = state.unseen or (execution, state.lasting)
            return left._replace(state="unknown")
        return left
    hint = (
        f"nothing was seen to be committed, but the database is not as it was when "
        f"{run.taken.place} was made of it: the migration has changed it in a way of its own"
    )
    return left._replace(state="partial-within-revision", hint=hint)


async def left_behind(state: RunState, within_s: float | None = None) -> Left:
    """Read what an attempt left: the state, the revisions that stay applied, and new debris.

    `within_s`: seconds after which a database that does not answer counts as out of sight.
    """
    finding, execution = state.finding, state.execution
    if finding is None or execution is None:
        return Left()
    backend, history = state.backend, await state.session.history()
    ran = list(execution.done)
    if execution.current is not None:
        ran.append(execution.current)
    try:
        async with asyncio.timeout(within_s):
            sight = await state.look()
            debris = tuple(each for each in await backend.debris() if each not in state.debris)
    except Exception:  # noqa: BLE001 - the error that brought us here is the one to report
        # a dead server rolls back what was not committed
        observed = execution.observed
        applied = tuple(observed.committed)
        torn = set(ran) - set(applied)
        if torn and (not backend.transactional_ddl or torn & observed.torn):
            return Left("partial-within-revision", applied, revision=execution.current)
        if not ran or not observed.may_stay:
            return Left(revision=execution.current)
        if state.unseen is None or state.unseen[0] is not execution:
            state.unseen = execution, state.lasting
        return Left("unknown", applied, revision=execution.current)
    if state.unseen is not None and state.unseen[0] is execution:
        (_, state.lasting), state.unseen = state.unseen, None
    heads = sight.all_heads()
    if not history.knows(heads):
        # newer code has migrated it meanwhile: nothing there is this run's to undo
        return Left(revision=execution.current)
    old = set(finding.ended(history, ran, finding.heads))
    new = [revision for revision in dict.fromkeys(ran) if revision not in old]
    applied = finding.ended(history, new, heads)
    lost = [revision for revision in ran if revision not in applied]
    halves = bool(lost) and not backend.transactional_ddl
    if debris or halves or execution.observed.torn.intersection(lost):
        return Left("partial-within-revision", applied, debris, execution.current)
    return Left("partial-at-boundary" if applied else "clean", applied, (), execution.current)


async def read_after(state: RunState, within_s: float | None = None) -> bool:
    """Note the heads that the database has now; return whether it could be asked."""
    try:
        async with asyncio.timeout(within_s):
            state.after = (await state.look()).all_heads()
    except Exception as error:  # noqa: BLE001 - the failure says why
        logger.debug("%s: reading the heads: %s", state.run.name, type(error).__name__)
        return False
    return True
