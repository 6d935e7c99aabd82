"""A signal to stop ends the run that is under way, and then whatever it ends without a run.

A server that has begun to start an application looks at SIGTERM only when that has started: the
migration would run on, until whoever sent the signal loses patience and kills the process.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from automigrator.errors import StoppedError

T = TypeVar("T")

STOPPING = (signal.SIGTERM, signal.SIGINT)

TICK_S = 0.1

"""A signal that comes just before a loop falls asleep is noticed when it wakes up, no earlier."""

_Handler = Callable[[int, FrameType | None], Any]


class _Run:
    """A run that the signals of this process end."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.stopped_by: int | None = None
        self._loop = asyncio.get_running_loop()
        self._tick()

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(TICK_S, self._tick)

    def close(self) -> None:
        self._ticking.cancel()

    def stop(self, number: int) -> None:
        if self.stopped_by is None:
            self.stopped_by = number
            # a handler runs between any two steps of the program, a cancellation does not
            self._loop.call_soon_threadsafe(self.task.cancel)


_runs: list[_Run] = []

_before: dict[int, Any] = {}

"""The handlers that were found, while there is a run; the main thread's alone."""

_late: list[int] = []

"""Signals that would have ended the process at once."""


async def until_signalled(work: Coroutine[Any, Any, T], how_far: Callable[[], str]) -> T:
    """Await `work`; SIGTERM and SIGINT cancel it, and are passed on to whom they were for.

    A handler of the application is called at once, and the default action taken when the work
    has cleaned up. Raises StoppedError then, with what `how_far` says. Off the main thread no
    signal arrives, and nothing is listened for.
    """
    task = asyncio.ensure_future(work)
    with _listening(task) as run:
        try:
            return await task
        except asyncio.CancelledError:
            outer = asyncio.current_task()
            if run is None or run.stopped_by is None or (outer is not None and outer.cancelling()):
                raise
            name = signal.Signals(run.stopped_by).name
    raise StoppedError(f"stopped by {name} while migrating; {how_far()}", run.stopped_by)


def not_begun(what: str, *, rollback: bool) -> str:
    """How far a run came that was stopped before a revision ran; `what`: what it was at."""
    if rollback:
        return f"interrupted while {what}; no revision was undone"
    return f"interrupted while {what}; nothing was migrated, and the next start begins anew"


@contextmanager
def _listening(task: asyncio.Task[Any]) -> Iterator[_Run | None]:
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    run = _Run(task)
    _runs.append(run)
    if len(_runs) == 1:
        _install()
    try:
        yield run
    finally:
        run.close()
        _runs.remove(run)
        if not _runs:
            _restore()


def _install() -> None:
    for number in STOPPING:
        before = signal.getsignal(number)
        # what is ignored stays ignored; what was not installed from Python could not be put back
        if before is not signal.SIG_IGN and before is not None:
            _before[number] = before
            signal.signal(number, _stop)


def _restore() -> None:
    for number, before in _before.items():
        if signal.getsignal(number) is _stop:
            signal.signal(number, before)
    _before.clear()
    late, _late[:] = list(_late), []
    for number in late:
        signal.raise_signal(number)


def _stop(number: int, frame: FrameType | None) -> None:
    """Called once for each run: a second signal must not disturb the cleaning up."""
    again = all(run.stopped_by is not None for run in _runs)
    for run in _runs:
        run.stop(number)
    before = _before.get(number)
    if before is signal.SIG_DFL or before is signal.default_int_handler:
        if number not in _late:
            _late.append(number)
    elif not again and callable(before):
        before(number, frame)
