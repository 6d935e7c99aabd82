"""Reports what happens to the log, to `events()` and to `on_event` hooks."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from automigrator.events.catalogue import CATALOGUE
from automigrator.support.concurrency import running_loop
from automigrator.support.loggers import logger_of

if TYPE_CHECKING:
    from automigrator.events.announcer import Announcer
    from automigrator.events.event import Event
    from automigrator.events.stream import Subscription
    from automigrator.target import Target

logger = logger_of("automigrator")


class Listeners(Protocol):
    """The plugins that are told every event."""

    @property
    def listened(self) -> bool:
        """Whether any plugin wants events."""

    def emit(self, event: Event) -> None:
        """Tell every plugin, from the event loop's thread; raises nothing."""


class Patience:
    """Which of the events of a long wait are worth a line: ever fewer of them."""

    AFTER_S = (1.0, 2.0, 5.0, 10.0, 30.0)
    """Seconds of waiting; from then on every minute."""

    def __init__(self) -> None:
        self._last_s: dict[object, float] = {}

    def is_due(self, what: object, seconds: float) -> bool:
        """Whether to say that `what` has been waited for so many seconds."""
        last_s = self._last_s.get(what, 0.0)
        if seconds < last_s:
            last_s = 0.0  # another wait
        minutes = (last_s // 60 + 1) * 60
        due = seconds >= next((each for each in self.AFTER_S if each > last_s), minutes)
        self._last_s[what] = seconds if due else last_s
        return due


class Notifier:
    """Reports one run's events, in order; calls from other threads go to the event loop's.

    The events are declared in `catalogue`; `run` tells the runs of a process apart. Subscriptions
    may be added, and `listeners` be replaced, while the run goes on. `announcer` tells people in
    the place of the log, where it speaks; None: never.
    """

    def __init__(
        self,
        subscriptions: list[Subscription],
        listeners: Listeners,
        run: str = "",
        announcer: Announcer | None = None,
    ) -> None:
        self._subscriptions = subscriptions
        self.listeners = listeners
        self.run = run or os.urandom(8).hex()
        self._announcer = announcer
        self._patience = Patience()
        self._loop, self._thread = running_loop(), threading.get_ident()

    def __call__(
        self, name: str, target: str | None = None, /, *, told: object = None, **data: Any
    ) -> None:
        """Report an event; `told` is the text for the log where the catalogue has none."""
        if self._loop is not None and threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # a thread that was left behind may outlive the loop
                self._loop.call_soon_threadsafe(lambda: self(name, target, told=told, **data))
            return
        declared = CATALOGUE.get(name)
        level = declared.level_for(data) if declared is not None else logging.DEBUG
        due = name != "waiting" or self._patience.is_due(data.get("on"), data["seconds"])
        logged = declared is not None and due and logger.isEnabledFor(level)
        if declared is not None and self._announcer is not None:
            self._announcer.begin(name, logs=logger.hasHandlers())
            if self._announcer.speaks:
                # without a handler Python itself would write it there, too
                logged = logged and self._announcer.logs
                text = declared.said(target, data, told)
                self._announcer.tell(declared, target, data, text, due)
        if not logged and not self._listened:
            return
        from automigrator.events.event import Event  # local: nobody may be listening

        event = Event(name, target, data, run=self.run)
        if declared is not None and logged:
            text = declared.said(target, data, told)
            logger.log(level, "%s", text, extra={"automigrator": event.to_log()}, stacklevel=2)
        for subscription in self._subscriptions:
            subscription.put(event)
        self.listeners.emit(event)

    def enter(self, target: str, what: str) -> None:
        """Note what a target's run is doing, for a person who watches; it is no event."""
        if self._announcer is not None and self._announcer.speaks:
            self._announcer.enter(target, what)

    @contextmanager
    def step(
        self, started: str, failed: str, target: Target, /, **data: Any
    ) -> Iterator[Callable[[], float]]:
        """Context manager: report the beginning of a step; yields its seconds so far.

        An error is reported as `failed` and raised again. The caller reports a step that ends
        well; `target-finished` stands for one that is cancelled.
        """
        began = time.monotonic()
        self(started, target.name, **data)
        try:
            yield lambda: time.monotonic() - began
        except Exception as error:
            from automigrator.support.redaction import hide_secrets, said  # local: for errors alone
            from automigrator.target import passwords_of

            secrets = passwords_of(target)
            hide_secrets(error, secrets)  # a plugin may log what its act raised
            data |= {"error": type(error).__name__, "message": said(error, secrets)}
            self(failed, target.name, **data, seconds=time.monotonic() - began)
            raise

    @contextmanager
    def hook(
        self, target: Target, hook: str, plugin: str, grace_s: float
    ) -> Iterator[Callable[[], object]]:
        """Context manager: report the call of a hook; yields what reports it left behind.

        `grace_s` are the seconds that it has to end after a cancellation.
        """
        asked = {"hook": hook, "plugin": plugin}

        def left() -> None:
            self("hook-left", target.name, **asked, grace=grace_s)

        with self.step("hook-started", "hook-failed", target, **asked) as seconds:
            yield left
        self("hook-finished", target.name, **asked, seconds=seconds())

    def wanted(self, name: str) -> bool:
        """Whether anybody is told such an event; else its data need not be made."""
        level = CATALOGUE[name].level
        return self._listened or (level is not None and logger.isEnabledFor(level))

    @property
    def _listened(self) -> bool:
        return bool(self._subscriptions) or self.listeners.listened
