"""Tells what happens to the log, to `events()` and to `on_event` hooks, in one place."""

from __future__ import annotations

import logging
from typing import Any

from automigrator.events import Event, EventStream
from automigrator.hooks import Hooks

logger = logging.getLogger("automigrator")

_SENTENCES = {
    "run-started": "migration run started: {targets}",
    "waiting": "{target}: waiting for {what}, {seconds:.0f} s so far",
    "created": "{target}: database created",
    "locked": "{target}: migration lock held",
    "repaired": "{target}: {what}",
    "bootstrapped": "{target}: new database bootstrapped, at {revision}",
    "stamped": "{target}: existing tables stamped as {revision}",
    "attempt-started": "{target}: attempt {attempt}, {pending} pending",
    "revision-started": "{target}: revision {index}/{total} {revision} started",
    "revision-done": "{target}: revision {revision} done in {seconds:.3f} s",
    "retrying": "{target}: trying again in {seconds:.1f} s: {what}",
    "decided": "{target}: {plugin} decided to {decision}",
    "snapshot-taken": "{target}: snapshot {place} taken",
    "restored": "{target}: put back from {place}",
    "recreated": "{target}: rebuilt from nothing; the old data: {aside}",
    "note": "{target}: {text}",
}
_WARNINGS = frozenset({"repaired", "restored", "recreated"})


class Progress:
    """One run's voice; call it from the event loop's thread."""

    def __init__(self, stream: EventStream, hooks: Hooks) -> None:
        self._stream = stream
        self.hooks = hooks

    def __call__(self, name: str, target: str | None = None, /, **data: Any) -> None:
        event = Event(name, target, data)
        sentence = _SENTENCES.get(name)
        if sentence is not None:
            level = logging.WARNING if name in _WARNINGS else logging.INFO
            logger.log(level, "%s", sentence.format(target=target, **data))
        self._stream.put(event)
        self.hooks.emit(event)
