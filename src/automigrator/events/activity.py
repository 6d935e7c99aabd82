"""What a run is at: its events, and the phases that it enters, as one line for a person."""

from __future__ import annotations

import time
from collections.abc import Mapping
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


class Activity:
    """What is under way, the innermost last."""

    def __init__(self) -> None:
        self._target: str | None = None
        self._steps: dict[str, _Step] = {}
        self._phase = _Step("looking at the database", time.monotonic())
        self._revision = ""
        self._server = _Step("", 0.0)

    def enter(self, target: str, what: str) -> None:
        """Note what a target's run is doing, where no event says it."""
        self._target = target
        if what != self._phase.what:
            self._phase = _Step(what, time.monotonic())

    def follow(self, declared: Declared, target: str | None, data: Mapping[str, Any]) -> None:
        """Note what an event begins, and what it ends."""
        name, now = declared.name, time.monotonic()
        for each in declared.ends:
            self._steps.pop(each, None)
        if name == "progress":
            total, phase = data["total"], data["phase"]
            share = f", {min(100 * data['done'] // total, 100)} %" if total else ""
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

    def __str__(self) -> str:
        """The line: what a narrow terminal cuts off is at its end."""
        now = time.monotonic()
        name, step = next(reversed(self._steps.items()), ("", self._phase))
        server = self._server if now - self._server.since < PROGRESS_S else None
        where, what = [], [step.what]
        if "revision-started" in self._steps:
            where.append(self._revision)
            if name == "revision-started" and server is not None:
                what.append(server.what)
        where.append(f"{now - step.since:.0f} s")
        line = f"{', '.join(where)}: {', '.join(what)}"
        return escaped(f"{self._target}: {line}" if self._target else line)
