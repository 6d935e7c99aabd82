"""Before a target is touched: what is pending is applied to a copy of it, which is removed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.errors import EnvError, RefusedError
from automigrator.migrations.baseline import stamp as stamped
from automigrator.migrations.execution import Execution, Migration
from automigrator.migrations.ways import Way
from automigrator.rehearsal import Rehearsal
from automigrator.retention import stamp
from automigrator.runner.diagnosis import ADVICE
from automigrator.runner.inspection import Finding, baseline_of
from automigrator.runner.side_database import SideError, migrated, sides_of
from automigrator.runner.state import RunState


class NoRehearsalError(RefusedError):
    """Raised where the pending revisions cannot be tried on a copy; nothing was changed."""

    kind = "rehearsal"
    advice = ADVICE["rehearsal"]


async def rehearse(state: RunState, finding: Finding) -> None:
    """Apply what is pending to a copy, where that is asked for and there is something to lose.

    Once for the same revisions. Raises NoRehearsalError where that cannot be done, and what a
    revision raised; then `state.rehearsal` says how far it came.
    """
    options = state.rehearse
    if options is None or state.run.empty or state.rehearsed == state.plan:
        return
    began, before = time.monotonic(), state.rehearsed_s or 0.0
    state.rehearsal = Execution()
    pending = len(finding.pending)
    told = state.progress.step(
        "rehearsal-started", "rehearsal-failed", state.target, pending=pending
    )
    try:
        with told as seconds, state.at(state.phase.what, "rehearsal"):
            await _rehearsed(state, finding, options)
    finally:
        state.rehearsed_s = before + time.monotonic() - began
    state.rehearsal, state.rehearsed = None, state.plan
    state.tell("rehearsed", pending=pending, seconds=seconds())


async def _rehearsed(state: RunState, finding: Finding, options: Rehearsal) -> None:
    binaries = Path(options.binaries) if options.binaries is not None else None
    how = SnapshotOptions(None, options.disconnect_others, options.copy, binaries)
    begin = partial(_begun, finding)
    refusal = ""
    try:
        async with migrated(state, partial(sides_of(state).copy, stamp(), how), begin):
            return
    except RefusedError as error:
        why: Exception = error
    except SideError as error:
        why, execution = error.error, error.execution
        if execution is not None:
            state.rehearsal = execution
            state.enter(state.phase.what, "revision" if execution.met_a_revision else "env")
        elif isinstance(why, EnvError):
            refusal = f"{why}; nothing was changed. Let env.py go to the database that it is given"
    if isinstance(why, RefusedError):
        refusal = str(why)
    if refusal:
        raise NoRehearsalError(f"the revisions cannot be rehearsed: {refusal}") from why
    raise why


async def _begun(
    finding: Finding, migration: Migration, way: Way, probed: Execution
) -> Mapping[str, float]:
    """See that the copy is what was found, and give it the starting point that the target gets."""
    baseline = baseline_of(migration.target, finding)
    heads = {head for context in probed.contexts for head in context.heads}
    if heads != set(finding.heads):
        raise RefusedError(
            f"the copy is at {', '.join(sorted(heads)) or 'base'}, and the database was at "
            f"{', '.join(finding.heads) or 'base'}; nothing was changed. Start again"
        )
    if baseline is not None:
        await stamped(migration, finding.tables[0], baseline)
    return {}
