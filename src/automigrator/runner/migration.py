"""The migration itself: env.py runs what is pending, and the heads are read anew."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from automigrator.errors import EnvError, JudgedError, LockLostError
from automigrator.failure import FailureKind
from automigrator.migrations.execution import (
    Configured,
    Execution,
    WayDiffersError,
    left_open,
)
from automigrator.report import Applied, heads_text
from automigrator.runner.inspection import Finding, inspect
from automigrator.runner.read_back import read_back
from automigrator.runner.state import RunState
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

logger = logger_of(__name__)

RUNNING = "running env.py"


class AskError(Exception):
    """Raised where env.py did not what was expected of it, and nothing else either."""


async def along(state: RunState, finding: Finding) -> None:
    """Bring the database along the way that was found. Raises AskError where it was not taken."""
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
    state.applied[first:] = done
    state.drive, state.execution = None, Execution()
    raise AskError


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
    if play is not None or not finding.assumed:
        _begun(state, finding, "replay" if play is not None else "")
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
            partial(_agreed, state, finding),
        )
    except BaseException:
        if not execution.met_a_revision:
            state.enter(RUNNING, "env", revisions=True)
        del state.applied[first:]  # until the database itself says which stay
        raise


def _agreed(state: RunState, finding: Finding, found: Configured) -> None:
    """Go by what env.py was seen to configure: it is what was expected."""
    state.finding = finding = finding._replace(contexts=(found,), assumed=False)
    state.run.transactional = rolls_back(state, finding)
    _begun(state, finding)


def _begun(state: RunState, finding: Finding, drive: str = "") -> None:
    """Tell that the pending revisions are about to run, and by what."""
    if finding.way is not None and not drive:
        drive = finding.way.told(context.driver for context in finding.contexts)
    state.drive = drive
    if finding.down_to is None:
        state.attempt_started(len(finding.pending))


def rolls_back(state: RunState, finding: Finding) -> bool:
    """Whether a failed attempt rolls back whole, by itself."""
    backend = state.backend
    return backend.transactional_ddl and finding.one_transaction and not state.may_commit
