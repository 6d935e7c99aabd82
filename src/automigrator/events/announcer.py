"""Tells a person on standard error what a run does, where the application has set up no logging.

A thread writes: a pipe that nobody reads does not keep the event loop, and a loop that something
keeps does not keep a person from reading what it waits for.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from automigrator.events.activity import Activity
from automigrator.events.standard_error import Output, standard_error
from automigrator.report import heads_text

if TYPE_CHECKING:
    from automigrator.events.catalogue import Declared

HEARTBEAT_S = 10.0
"""Seconds without a line after which one says what the run is at."""

DRAW_S = 0.2
"""Seconds between two drawings of the line on a terminal."""

CLOSE_S = 0.05
"""Seconds for which the end of a run waits for its last lines to be written."""

_UNWRITTEN_LIMIT = 1000

LINES = frozenset(
    """
    skipped waiting reached waited created repaired repair-failed bootstrapped stamped followed
    rehearsed attempt-started revision-done retrying failed crash-loop decided hook-left
    snapshot-taken restored restore-failed recreated recreate-failed cancelled newer-database
    no-revisions rollback-started rollback-finished
    """.split()  # noqa: SIM905 - a list of words, a word each
)
"""The events that a person is told with a line of their own."""

_BEGINS = frozenset({"run-started", "rollback-started", "skipped"})
_ENDS = frozenset({"run-finished", "rollback-finished", "skipped"})


class Announcer:
    """Tells one run after another; `speaks` and `logs` say who tells the one under way.

    `always`: also where the application has set up logging; default: only where it has not.
    """

    def __init__(self, *, always: bool = False) -> None:
        self._always = always
        self.speaks = self.logs = False
        self._thread: _Writer | None = None

    def begin(self, name: str, *, logs: bool) -> None:
        """Decide about a run where `name` is its first event; `logs`: handlers are set up.

        It holds for the whole run: an env.py may set up logging for itself.
        """
        if name in _BEGINS:
            self.speaks, self.logs = self._always or not logs, logs

    def enter(self, target: str, what: str) -> None:
        """Note what a target's run is doing."""
        if self._thread is not None:
            self._thread.activity.enter(target, what)

    def tell(
        self, declared: Declared, target: str | None, data: Mapping[str, Any], told: str, due: bool
    ) -> None:
        """Tell an event; `told` is its text, `due` whether its text is wanted. Raises nothing."""
        with suppress(Exception):  # no thread can be started, say
            if self._thread is None:
                if (output := standard_error()) is None:
                    return
                writer = _Writer(output)
                writer.start()
                self._thread = writer
            self._thread.tell(declared, target, data, told, due=due)
        if declared.name in _ENDS:
            last, self._thread = self._thread, None
            if last is not None:
                last.end()


class _Writer(threading.Thread):
    """Writes the lines of one run, what it is at, and that it is alive."""

    def __init__(self, output: Output) -> None:
        super().__init__(name="automigrator-announcer", daemon=True)
        self.activity = Activity()
        self._output = output
        self._lines: deque[str] = deque(maxlen=_UNWRITTEN_LIMIT)
        self._changed = threading.Condition()
        self._over = False
        self._told: list[str] = []

    def tell(
        self,
        declared: Declared,
        target: str | None,
        data: Mapping[str, Any],
        told: str,
        *,
        due: bool,
    ) -> None:
        with self._changed:
            self.activity.follow(declared, target, data)
            lines = list(self._of(declared.name, target, data, told)) if due else []
            if lines:
                self._told += lines
                self._lines += [f"automigrator: {line}" for line in lines]
                self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self.join(CLOSE_S)

    def _of(
        self, name: str, target: str | None, data: Mapping[str, Any], told: str
    ) -> Iterator[str]:
        """The lines that an event is worth; a failure's whole screen is the exception's."""
        outcome = data.get("outcome")
        if name in LINES or (name == "run-finished" and outcome == "degraded"):
            yield from told.splitlines()
        elif name == "target-finished" and outcome in ("migrated", "recovered"):
            before, after = (heads_text(tuple(data[each])) for each in ("before", "after"))
            seconds = data["elapsed_s"]
            yield f"{target}: {outcome}, {before} -> {after} in {seconds:.2f} s"
            for note in data["notes"]:
                if not any(note in line for line in self._told):
                    yield f"{target}: note: {note}"

    def run(self) -> None:
        with suppress(AttributeError, ValueError):
            # where the application lets a closed pipe end it: not for a line of ours
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        live, beat = self._output.live, time.monotonic() + HEARTBEAT_S
        while True:
            with self._changed:
                if not self._lines and not self._over:
                    self._changed.wait(DRAW_S if live else max(beat - time.monotonic(), 0.0))
                lines, over = list(self._lines), self._over
                self._lines.clear()
                now = "" if over else str(self.activity)
                so_far = self.activity.so_far
            if lines:
                beat = time.monotonic() + HEARTBEAT_S
            elif not live and not over and time.monotonic() >= beat:
                beat = time.monotonic() + HEARTBEAT_S
                lines = [f"automigrator: {so_far}"]
            self._output.show(lines, now)
            if over:
                return
