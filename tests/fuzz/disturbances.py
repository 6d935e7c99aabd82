"""What befalls a run, at an event or in a hook of it that was drawn beforehand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fuzz.life import LivingDatabase, LivingFile
from hypothesis import strategies as st

from automigrator import Event, Failure, Run, TargetReport, hookimpl

Kind = Literal["none", "cancel", "terminate", "hook", "busy", "writes"]
Hook = Literal["before_migrate", "on_failure", "after_migrate", "on_event"]


@dataclass(frozen=True)
class Fault:
    """`at` counts events from 1, and is the last one when there are fewer."""

    kind: Kind
    at: int = 1
    choice: int = 0
    hook: Hook = "before_migrate"

    @property
    def harmless(self) -> bool:
        """Whether a run ends as it would have without."""
        return self.kind in ("none", "busy") or (
            self.kind == "hook" and self.hook in ("on_event", "after_migrate")
        )

    def on(self, kind: str) -> Fault:
        """What is possible on this kind of database."""
        if kind == "sqlite" and self.kind == "terminate":
            return replace(self, kind="busy")
        if kind == "postgresql" and self.kind == "busy":
            return replace(self, kind="terminate")
        return self


class InjectedError(Exception):
    """Raised by a hook of the application's."""


@dataclass
class Disturbance:
    """An in-house plugin: hears every event of one run, and disturbs it once."""

    fault: Fault
    place: LivingFile | LivingDatabase
    write: Callable[[], object]
    """Has the application write rows over a connection of its own."""
    events: list[Event] = field(default_factory=list)
    task: asyncio.Task[Any] | None = None
    done: str = ""
    """What was done; empty while nothing was."""
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    @hookimpl
    def before_migrate(self, run: Run) -> None:
        self._hook("before_migrate")

    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> None:
        self._hook("on_failure")

    @hookimpl
    def after_migrate(self, run: Run, report: TargetReport) -> None:
        self._hook("after_migrate")

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.events.append(event)
        if len(self.events) < self.fault.at or self.done:
            return
        match self.fault.kind:
            case "cancel" if self.task is not None:
                self.task.cancel()
                self.done = f"cancelled at {event.name}"
            case "terminate" if isinstance(self.place, LivingDatabase):
                if ended := self.place.terminate(self.fault.choice):
                    self.done = f"terminated {ended} at {event.name}"
            case "busy" if isinstance(self.place, LivingFile):
                self.done = f"another writer from {event.name} on"
                self._beside(lambda: self.place.occupy(0.03 * (1 + self.fault.choice)))
            case "writes":
                self.done = f"rows written from {event.name} on"
                self._beside(self.write)
            case "hook" if self.fault.hook == "on_event":
                self._hook("on_event")

    def _hook(self, hook: Hook) -> None:
        if self.fault.kind == "hook" and self.fault.hook == hook and not self.done:
            self.done = f"{hook} raised"
            raise InjectedError("the application's own hook")

    def _beside(self, work: Callable[[], object]) -> None:
        thread = threading.Thread(target=work, name="fuzz", daemon=True)
        self.threads.append(thread)
        thread.start()

    def over(self) -> None:
        """Wait until what was begun is over."""
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


def faults(*kinds: Kind) -> st.SearchStrategy[Fault]:
    return st.builds(
        Fault,
        kind=st.sampled_from(kinds),
        at=st.integers(3, 22),
        choice=st.integers(0, 3),
        hook=st.sampled_from(["before_migrate", "on_failure", "after_migrate", "on_event"]),
    )
