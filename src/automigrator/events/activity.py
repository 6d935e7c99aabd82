"""What a run is at: its events, and the phases that it enters, as one line for a person."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from automigrator.printable import escaped

if TYPE_CHECKING:
    from automigrator.events.catalogue import Declared

PROGRESS_S = 12.0
"""Seconds for which the server's word about a statement is shown; it is asked every few seconds."""

_FRAMES = frozenset({"run-started", "target-started", "attempt-started", "hook-started"})
"""What begins and says nothing of what is done: a phase says more."""


class _Step(NamedTuple):
    what: str
    since: float


class Now(NamedTuple):
    """What is under way: the revision that runs, else empty; what it is at; for how many seconds.

    `share`: how much of its statement is done, in percent; None where the server does not say.
    """

    revision: str
    what: str
    seconds: float
    share: int | None


class Activity:
    """What is under way, the innermost last; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._target: str | None = None
        self._steps: dict[str, _Step] = {}
        self._phase = _Step("looking at the database", clock())
        self._revision = ""
        self._server = _Step("", 0.0)
        self._share: int | None = None

    def enter(self, target: str, what: str) -> None:
        """Note what a target's run is doing, where no event says it."""
        self._target = target
        if what != self._phase.what:
            self._phase = _Step(what, self._clock())

    def follow(self, declared: Declared, target: str | None, data: Mapping[str, Any]) -> None:
        """Note what an event begins, and what it ends."""
        name, now = declared.name, self._clock()
        for each in declared.ends:
            self._steps.pop(each, None)
        if name == "progress":
            total, phase = data["total"], data["phase"]
            self._share = min(100 * data["done"] // total, 100) if total else None
            share = f", {self._share} %" if self._share is not None else ""
            self._server = _Step(f"{phase}{share}", now)
        elif name in ("target-started", "target-finished"):
            self._steps.clear()
            self._target, self._phase = target, _Step("looking at the database", now)
        elif name == "waiting":
            self._steps[name] = _Step(f"waiting for {data['what']}", now - data["seconds"])
        elif name == "revision-started":
            self._revision = f"revision {data['index']} of {data['total']}"
            self._steps[name] = _Step(data["revision"], now)
            self._server = _Step("", 0.0)
        elif name.endswith("-started") and name not in _FRAMES:
            self._steps[name] = _Step(declared.sentence.format(**data), now)

    @property
    def now(self) -> Now:
        """What is under way at this moment."""
        now = self._clock()
        name, step = next(reversed(self._steps.items()), ("", self._phase))
        what, share = step.what, None
        fresh = now - self._server.since < PROGRESS_S
        if name == "revision-started" and fresh and self._server.what:
            what, share = f"{what}, {self._server.what}", self._share
        revision = self._revision if "revision-started" in self._steps else ""
        return Now(revision, escaped(what), now - step.since, share)

    @property
    def so_far(self) -> str:
        """The line, in the words of an event that is told while something is waited for."""
        now = self.now
        what = ", ".join(filter(None, [now.revision, now.what]))
        line = f"{what}, {now.seconds:.0f} s so far"
        return f"{escaped(self._target)}: {line}" if self._target else line

    def __str__(self) -> str:
        """The line of a terminal: what a narrow one cuts off is at its end."""
        now = self.now
        where = [now.revision, f"{now.seconds:.0f} s"]
        line = f"{', '.join(filter(None, where))}: {now.what}"
        return f"{escaped(self._target)}: {line}" if self._target else line
