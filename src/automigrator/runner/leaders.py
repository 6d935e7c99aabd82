"""What a process in mode `wait` learns of the leader that it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from automigrator.backends.contract.record import Record
from automigrator.failure import Failure
from automigrator.printable import joined
from automigrator.report import Report, TargetReport
from automigrator.runner.session import Session, opened
from automigrator.status import Status, TargetStatus
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of
from automigrator.target import Target

LASTING = frozenset({"ahead", "history"})
"""Kinds of problems that no migration of another process ends."""

logger = logger_of(__name__)


class Leaders:
    """The leaders of the targets that are waited for, as far as they were seen."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = {target.name: target for target in targets}
        self._first: dict[str, Record | None] = {}
        """The record that was there at the first look: of a leader that nobody waited for."""
        self._last: dict[str, Record | None] = {}
        self._holders: dict[str, str] = {}

    @property
    def now(self) -> str:
        """Who was seen last to hold a lock."""
        return ", ".join(dict.fromkeys(self._holders.values()))

    async def failed(self, status: Status) -> Report | None:
        """Look who leads; the report of failure where a leader has failed since the first look.

        So it is where waiting is of no use.
        """
        for each in status.targets:
            if each.current:
                continue
            if (failed := await self._failed(each)) is not None:
                return Report(tuple(failed if e is each else _not_run(e) for e in status.targets))
        return None

    async def _failed(self, status: TargetStatus) -> TargetReport | None:
        """The report of a target for which there is no use in waiting."""
        if status.problem is not None and status.problem.kind in LASTING:
            return _failed(status, (status.problem,))
        async with opened(self._targets[status.name]) as session:
            try:
                return await self._looked(session, status)
            except Exception as error:  # noqa: BLE001 - the status says what is wrong
                logger.debug("%s: who leads: %s", status.name, type(error).__name__)
                return None

    async def _looked(self, session: Session, status: TargetStatus) -> TargetReport | None:
        examiner = session.examiner()
        if examiner is None:
            return None
        name = status.name
        if holder := await examiner.holder():
            self._holders[name] = holder
        record = self._last[name] = await examiner.record()
        if record is None or record == self._first.setdefault(name, record):
            return None
        if record.outcome == "begun" or not record.failures or not status.pending:
            return None
        history = await session.history()
        if record.plan != await in_thread(partial(history.digest, status.pending)):
            return None  # it tried something else: another deployment's
        failures = tuple(Failure.from_dict(each) for each in record.failures)
        note = f"{record.leader} led while this process waited, and ended {record.outcome}"
        return _failed(status, failures, note)

    def reported(self, status: TargetStatus, waited_s: float) -> TargetReport:
        """The report of a target that is current now."""
        notes, heads = status.notes, status.heads
        if status.name not in self._last:
            return TargetReport(status.name, "current", heads, heads, notes=notes)
        who = self._holders.get(status.name, "another process, which was not seen at it,")
        notes += (f"{who} migrated it while this process waited {waited_s:.1f} s",)
        return TargetReport(status.name, "current", heads, heads, waited_s=waited_s, notes=notes)

    def said(self) -> str:
        """How the last leaders ended, for a wait that was in vain."""
        told = []
        for name, record in self._last.items():
            if record is not None:
                ended = "died, or still migrates" if record.outcome == "begun" else record.outcome
                why = record.failures[-1].get("message") if record.failures else None
                told.append(
                    f"{name}: the last leader, {record.leader}, {ended}"
                    + (f"; the last failure: {why}" if why else "")
                )
        return joined(["", *told])


def _failed(status: TargetStatus, failures: tuple[Failure, ...], *notes: str) -> TargetReport:
    heads = status.heads
    return TargetReport(status.name, "failed", heads, heads, failures=failures, notes=notes)


def _not_run(status: TargetStatus) -> TargetReport:
    heads = status.heads
    return TargetReport(status.name, "current" if status.current else "not-run", heads, heads)
