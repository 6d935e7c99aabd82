"""What a run is at, for those who wait for the application: kept by its events, told as JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from automigrator.asgi.target_progress import TargetProgress
from automigrator.printable import escaped
from automigrator.support.asgi import as_json
from automigrator.support.redaction import said

if TYPE_CHECKING:
    from automigrator.events.event import Event
    from automigrator.report import Outcome, Report
    from automigrator.status import PendingRevision

Phase = Literal["starting", "migrating", "application", "ready", "failed", "pending", "stopped"]
"""`starting`: nothing is known yet. `migrating`: a run goes on. `application`: its own lifespan
starts. `ready`. `failed`: it stays so, or is tried again. `pending`: the button is waited for.
`stopped`: by a signal, or with the server."""

UNDER_WAY: frozenset[Phase] = frozenset({"starting", "migrating", "application"})
"""The phases in which the time goes on."""

RECENT_S = 0.25
"""Seconds for which a state that was told is told again: with thousands of targets it takes long to
make, and everybody may ask."""


class Told(NamedTuple):
    """What was told: the version, the state and its JSON; `at` is the clock's time."""

    version: int
    state: dict[str, Any]
    json: bytes
    at: float


class Progress:
    """What the runs of one Migrator are at.

    `targets`: the targets' names, in their order. `clock`: gives seconds; default: a monotonic one.
    """

    def __init__(self, targets: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.version = 0
        """Grows with every change that a reader would see."""
        self._names, self._clock = tuple(targets), clock
        self._phase: Phase = "starting"
        self._reason = ""
        self._outcome: Outcome | None = None
        self._retry_at: float | None = None
        self._began, self._ended = clock(), 0.0
        self._targets = self._fresh()
        self._news = asyncio.Event()
        self._recent: dict[bool, Told] = {}

    async def changed(self, version: int) -> None:
        """Wait for a change since `version`; return at once where there was one."""
        while self.version == version:
            await self._news.wait()

    def enter(self, phase: Phase, *, reason: str = "", retry_in_s: float | None = None) -> None:
        """Enter a phase; a run that begins anew starts its time, and forgets the failure.

        `reason`: why, for a person, without secrets. `retry_in_s`: seconds until the next try.
        """
        now, was = self._clock(), self._phase
        if phase in UNDER_WAY and was not in UNDER_WAY:
            self._began, self._reason, self._outcome = now, "", None
            if was != "pending":
                self._targets = self._fresh()
        if phase not in UNDER_WAY and was in UNDER_WAY:
            self._ended = now
        self._phase = phase
        self._reason = escaped(reason) or self._reason
        self._retry_at = None if retry_in_s is None else now + retry_in_s
        self._recent.clear()
        self._tell()

    def expect(self, target: str, pending: Iterable[PendingRevision]) -> None:
        """Note what is pending for a target before a run begins."""
        self._targets[target].expect(pending)
        self._tell()

    def follow(self, event: Event) -> None:
        """Note what happened; takes every event of `Migrator.events()`."""
        if event.target is not None:
            if (target := self._targets.get(event.target)) is None:
                return
            target.follow(event)
        elif event.name == "waiting":  # mode `wait` looks at all targets at once
            if len(self._names) > 1:
                event = event._replace(data={**event.data, "progress": ""})
            for target in self._targets.values():
                target.follow(event)
        elif event.name == "skipped":
            self._reason = escaped(event.data["reason"])
        self._tell()

    def end(self, report: Report | None, error: BaseException | None) -> None:
        """Note how a run ended: its report, and what it raised, as far as there are any."""
        report = report or getattr(error, "report", None)
        self._outcome = "failed" if report is None else report.outcome
        for each in report.targets if report is not None else ():
            if each.name in self._targets:
                self._targets[each.name].end(each)
        failed = any(each.failure is not None for each in self._targets.values())
        if report is not None and report.reason:
            self._reason = escaped(report.reason)
        elif error is not None and not failed:
            self._reason = escaped(said(error, ()).partition("\n")[0])
        self._tell()

    def told(self, *, details: bool) -> dict[str, Any]:
        """What a reader may know, as JSON types; without `details` nothing that names anything."""
        now = self._clock()
        targets = list(self._targets.values())
        done, total = (sum(each) for each in zip(*(t.steps for t in targets), strict=True))
        failures = [each.failure["kind"] for each in targets if each.failure is not None]
        shares = (each.statement for each in targets)
        told = {
            "phase": self._phase,
            "outcome": self._outcome,
            "elapsed_s": (now if self._phase in UNDER_WAY else self._ended) - self._began,
            "done": done if total else None,
            "total": total or None,
            "waiting": any(each.phase == "waiting" for each in targets),
            "statement": next((each for each in shares if each is not None), None),
            "retry_in_s": None if self._retry_at is None else max(self._retry_at - now, 0.0),
            "failed": failures[-1] if failures and self._phase == "failed" else None,
            "details": details,
        }
        if details:
            told |= {"targets": [each.told() for each in targets], "reason": self._reason}
        return told

    def recent(self, *, details: bool) -> Told:
        """What `told` returns, or did a moment ago; a phase is never an old one."""
        now, made = self._clock(), self._recent.get(details)
        if made is None or now - made.at >= RECENT_S:
            state = self.told(details=details)
            made = self._recent[details] = Told(self.version, state, as_json(state), now)
        return made

    def _fresh(self) -> dict[str, TargetProgress]:
        return {name: TargetProgress(name, self._clock) for name in self._names}

    def _tell(self) -> None:
        self.version += 1
        self._news.set()
        self._news = asyncio.Event()
