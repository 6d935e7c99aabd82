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


class Notifier:
    """Reports one run's events, in order; calls from other threads go to the event loop's.

    The events are declared in `catalogue`; `run` tells the runs of a process apart. Subscriptions
    may be added, and `listeners` be replaced, while the run goes on.
    """

    def __init__(
        self, subscriptions: list[Subscription], listeners: Listeners, run: str = ""
    ) -> None:
        self._subscriptions = subscriptions
        self.listeners = listeners
        self.run = run or os.urandom(8).hex()
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
        logged = declared is not None and logger.isEnabledFor(level)
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

    @property
    def _listened(self) -> bool:
        return bool(self._subscriptions) or self.listeners.listened
