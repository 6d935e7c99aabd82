"""Tells what happens to the log, to `events()` and to `on_event` hooks, in one place."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from automigrator.events.catalogue import CATALOGUE
from automigrator.events.stream import Event, EventStream
from automigrator.hooks.calls import GRACE_S
from automigrator.hooks.registry import Hooks
from automigrator.support.redaction import hide_secrets, said
from automigrator.target import Target

logger = logging.getLogger("automigrator")


class Progress:
    """One run's voice; what another thread says is told by the event loop's, in order.

    What it tells is declared in `catalogue`; `run` tells the runs of a process apart.
    """

    def __init__(self, stream: EventStream, hooks: Hooks, run: str = "") -> None:
        self._stream = stream
        self.hooks = hooks
        self.run = run or os.urandom(8).hex()
        self._loop, self._thread = _running_loop(), threading.get_ident()

    def __call__(
        self, name: str, target: str | None = None, /, *, told: object = None, **data: Any
    ) -> None:
        """Tell; `told` is the log record's text where the catalogue has no sentence."""
        if self._loop is not None and threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # a thread that was left behind may outlive the loop
                self._loop.call_soon_threadsafe(lambda: self(name, target, told=told, **data))
            return
        declared = CATALOGUE.get(name)
        level = declared.level_for(data) if declared is not None else logging.DEBUG
        logged = declared is not None and logger.isEnabledFor(level)
        if not logged and not self._listened:
            return
        event = Event(name, target, data, run=self.run)
        if declared is not None and logged:
            text = declared.said(target, data, told)
            logger.log(level, "%s", text, extra={"automigrator": event.to_log()}, stacklevel=2)
        self._stream.put(event)
        self.hooks.emit(event)

    def heard(self, name: str) -> bool:
        """Whether anybody would notice; ask before data is gathered for telling alone."""
        return self._listened or logger.isEnabledFor(CATALOGUE[name].level_for({}))

    @contextmanager
    def step(
        self, started: str, failed: str, target: Target, /, **data: Any
    ) -> Iterator[Callable[[], float]]:
        """Within, a step is under way; gives the seconds so far.

        An error is told as `failed` and passes on. What ends a step well is told by who takes it,
        and a cancellation by `target-finished`.
        """
        began = time.monotonic()
        self(started, target.name, **data)
        try:
            yield lambda: time.monotonic() - began
        except Exception as error:
            hide_secrets(error, target)  # a plugin may log what its act raised
            self(
                failed,
                target.name,
                **data,
                error=type(error).__name__,
                message=said(error, target),
                seconds=time.monotonic() - began,
            )
            raise

    @contextmanager
    def hook(self, target: Target, hook: str, plugin: str) -> Iterator[Callable[[], object]]:
        """Within, a plugin is asked; gives what tells that it is left behind."""
        asked = {"hook": hook, "plugin": plugin}

        def left() -> None:
            self("hook-left", target.name, **asked, grace=GRACE_S)

        with self.step("hook-started", "hook-failed", target, **asked) as seconds:
            yield left
        self("hook-finished", target.name, **asked, seconds=seconds())

    @property
    def _listened(self) -> bool:
        return self._stream.listened or self.hooks.listened


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
