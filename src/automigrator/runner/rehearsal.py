"""Before a target is touched: what is pending is applied to a copy of it, which is removed."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from automigrator.backends.contract.sides import Side, Sides
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.errors import EnvError, RefusedError
from automigrator.migrations.baseline import stamp as stamped
from automigrator.migrations.environment import Execution, Migration
from automigrator.rehearsal import Rehearsal
from automigrator.retention import stamp
from automigrator.runner.diagnosis import ADVICE
from automigrator.runner.inspection import Finding
from automigrator.runner.side_database import SideError, migrated
from automigrator.runner.state import RunState


class NoRehearsalError(RefusedError):
    """Raised where the pending revisions cannot be tried on a copy; nothing was changed."""

    kind = "rehearsal"
    advice = ADVICE["rehearsal"]


async def rehearse(state: RunState, finding: Finding) -> None:
    """Apply what is pending to a copy, where that is asked for and there is something to lose.

    Once for the same revisions. Raises NoRehearsalError where that cannot be done, and what a
    revision raised; then `state.rehearsal.execution` says how far it came.
    """
    options, rehearsal = state.policy.rehearse, state.rehearsal
    if options is None or state.run.empty or rehearsal.passed == state.plan:
        return
    began, before = time.monotonic(), rehearsal.seconds or 0.0
    rehearsal.execution = Execution()
    pending = len(finding.pending)
    told = state.progress.step(
        "rehearsal-started", "rehearsal-failed", state.session.target, pending=pending
    )
    try:
        with told as seconds, state.at(state.phase.what, "rehearsal"):
            await _rehearsed(state, finding, options)
    finally:
        rehearsal.seconds = before + time.monotonic() - began
    rehearsal.execution, rehearsal.passed = None, state.plan
    state.progress("rehearsed", state.run.name, pending=pending, seconds=seconds())


async def _rehearsed(state: RunState, finding: Finding, options: Rehearsal) -> None:
    binaries = Path(options.binaries) if options.binaries is not None else None
    how = SnapshotOptions(None, options.disconnect_others, options.copy, binaries)
    at = stamp()

    def copied(sides: Sides) -> AbstractAsyncContextManager[Side]:
        return sides.copy(at, how)

    async def begin(migration: Migration, probed: Execution) -> None:
        await _begun(finding, migration, probed)

    why: BaseException | None = None
    try:
        async with migrated(state, copied, begin):
            pass
    except RefusedError as error:
        why = error
    except SideError as error:
        why, execution = error.__cause__, error.execution
        if execution is not None:
            state.rehearsal.execution = execution
            state.enter(state.phase.what, "revision" if execution.met_a_revision else "env")
        elif isinstance(why, EnvError):
            said = f"{why}; nothing was changed. Let env.py go to the database that it is given"
            why = _because(RefusedError(said), why)
    if isinstance(why, RefusedError):
        why = _because(NoRehearsalError(f"the revisions cannot be rehearsed: {why}"), why)
    if why is not None:
        raise why


async def _begun(finding: Finding, migration: Migration, probed: Execution) -> None:
    """See that the copy is what was found, and give it the starting point that the target gets."""
    baseline = migration.target.baseline
    heads = {head for context in probed.contexts for head in context.heads}
    if heads != set(finding.heads):
        raise RefusedError(
            f"the copy is at {', '.join(sorted(heads)) or 'base'}, and the database was at "
            f"{', '.join(finding.heads) or 'base'}; nothing was changed. Start again"
        )
    if finding.unversioned and baseline not in (None, "base"):
        assert baseline is not None
        await stamped(migration, finding.tables[0], baseline)


def _because(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error
