"""Revisions that a rehearsal found beyond its limits, and that are left to a later start."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from itertools import takewhile

from automigrator.backends.contract.record import Record
from automigrator.errors import RefusedError
from automigrator.failure import Failure
from automigrator.migrations.history import History
from automigrator.runner.inspection import Finding
from automigrator.runner.records.crash_loop import earlier_starts
from automigrator.runner.records.one_start import this_start
from automigrator.runner.rehearsals.findings import Over
from automigrator.runner.state import RunState
from automigrator.support.concurrency import in_thread

ADVICE = (
    "do what the findings advise (`automigrator rehearse` shows them), raise the limit, or "
    "migrate when few use the application"
)


class LimitError(RefusedError):
    """Raised where the pending revisions would cost more than allowed; nothing was changed."""

    kind = "rehearsal"
    advice = ADVICE


def cut(finding: Finding, deferred: Collection[str], history: History) -> Finding:
    """The finding of a run that leaves `deferred`, and what comes after the first of them."""
    if not deferred:
        return finding
    contexts = []
    for each in finding.contexts:
        pending = tuple(takewhile(lambda revision: revision not in deferred, each.pending))
        wanted = history.maximal((*each.heads, *pending))
        contexts.append(replace(each, pending=pending, wanted=wanted))
    return finding._replace(contexts=tuple(contexts))


def defer(state: RunState, finding: Finding, over: Over) -> None:
    """Leave what exceeds a limit, and what comes after it, to a later start; and tell."""
    ids = finding.pending
    state.rehearsals.deferred = ids[ids.index(over.revision) :]
    listed = ", ".join(state.rehearsals.deferred)
    state.rehearsals.why = f"deferred: {listed}, as {over.said}; the next start rehearses again"
    state.tell("deferred", revisions=list(state.rehearsals.deferred), reason=state.rehearsals.why)


async def leave_deferral(state: RunState) -> None:
    """Leave a record of what was deferred to those who wait; the start counts as none that failed.

    Raises what writing raises.
    """
    history = await state.session.history()
    plan = await in_thread(partial(history.digest, state.rehearsals.deferred))
    state.start.starts = earlier_starts(state)
    failure = Failure(
        "rehearsal",
        state.rehearsals.why,
        revision=state.rehearsals.deferred[0],
        advice=ADVICE,
        database=state.target.url,
        in_rehearsal=True,
    )
    starts = state.start.starts
    said, leader = (failure.to_dict(),), state.hold.leader
    record = Record(plan, "degraded", leader, said, starts=starts, start=this_start())
    await state.hold.leave(record)


def inherited_deferral(state: RunState, record: Record, failure: Failure) -> bool:
    """Whether a leader left a deferral that holds for this process, too; it is noted then."""
    options, finding = state.rehearse, state.finding
    told = record.outcome == "degraded" and failure.kind == "rehearsal" and failure.in_rehearsal
    if not told or options is None or not options.defer or finding is None:
        return False
    state.rehearsals.deferred, state.rehearsals.why = finding.pending, failure.message
    return True
