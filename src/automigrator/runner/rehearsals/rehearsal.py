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
from automigrator.runner.rehearsals.copy_meter import CopyMeter, usage_of
from automigrator.runner.rehearsals.deferral import LimitError, cut, defer
from automigrator.runner.rehearsals.findings import exceeded
from automigrator.runner.side_database import SideError, migrated, sides_of
from automigrator.runner.state import RunState
from automigrator.target import passwords_of


class NoRehearsalError(RefusedError):
    """Raised where the pending revisions cannot be tried on a copy; nothing was changed."""

    kind = "rehearsal"
    advice = ADVICE["rehearsal"]


async def rehearse(state: RunState, finding: Finding) -> Finding:
    """Apply what is pending to a copy, where that is asked for and there is something to lose.

    Once for the same revisions. Returns what is to be applied: all, or what comes before a
    revision that is deferred. Raises NoRehearsalError where that cannot be done, LimitError where
    the revisions cost more than is allowed, and what a revision raised; then `state.rehearsal`
    says how far it came.
    """
    options = state.rehearse
    assert options is not None
    if state.run.empty:
        return finding
    if state.rehearsals.passed != state.plan:
        began, before = time.monotonic(), state.rehearsals.seconds or 0.0
        state.rehearsal, state.rehearsals.measurement = Execution(), None
        pending = len(finding.pending)
        told = state.progress.step(
            "rehearsal-started", "rehearsal-failed", state.target, pending=pending
        )
        try:
            with told as seconds, state.at(state.phase.what, "rehearsal"):
                await _rehearsed(state, finding, options)
        finally:
            state.rehearsals.seconds = before + time.monotonic() - began
        state.rehearsal, state.rehearsals.passed = None, state.plan
        state.tell("rehearsed", pending=pending, seconds=seconds())
    return await _allowed(state, finding, options)


async def _allowed(state: RunState, finding: Finding, options: Rehearsal) -> Finding:
    """What the limits allow of a finding. Raises LimitError where they refuse all of it."""
    measured = state.rehearsals.measurement
    if measured is None:
        if options.limited:
            raise LimitError(
                "what the revisions cost could not be measured, as this kind of database offers no "
                "measuring or the copy takes no second connection, and Rehearsal() sets limits; "
                "nothing was changed"
            )
        return finding
    over = exceeded(measured.revisions, options)
    if over is None:
        return finding
    if not options.defer:
        raise LimitError(f"{over.said}; nothing was changed")
    defer(state, finding, over)
    return cut(finding, state.rehearsals.deferred, await state.session.history())


async def _rehearsed(state: RunState, finding: Finding, options: Rehearsal) -> None:
    binaries = Path(options.binaries) if options.binaries is not None else None
    how = SnapshotOptions(None, options.disconnect_others, options.copy, binaries)
    begin = partial(_begun, finding)
    before = await usage_of(state.backend)
    metering = CopyMeter(state.backend, passwords_of(state.target))
    refusal = ""
    try:
        copy = partial(sides_of(state).copy, stamp(), how)
        async with migrated(state, copy, begin, metering.of):
            measured = await metering.measurement(state.backend, before, options)
            state.rehearsals.measurement = measured
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
