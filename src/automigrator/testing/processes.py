"""Real processes, which are killed in the middle of what they do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

LIMIT_S = 120.0

"""Nothing here takes so long."""

_PRELOADED = ["automigrator.runner.pipeline", "sqlalchemy.ext.asyncio", "alembic.command"]

_PRELOADED += ["automigrator.testing.processes", "aiosqlite", "asyncpg"]


class Process:
    """One that runs `work(tell, *arguments)`, a module's function; what it tells can be awaited."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        # a fork server: to start Python and import all that takes a second, a fork milliseconds
        context: Any = multiprocessing.get_context("spawn")
        if "forkserver" in multiprocessing.get_all_start_methods():
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(_PRELOADED)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, work, arguments, sys.path), daemon=True
        )
        self._process.start()
        theirs.close()

    def told(self) -> Any:
        """What it tells next. Fails when it ends, or takes too long, without a word."""
        assert wait([self._pipe], LIMIT_S), f"a process said nothing for {LIMIT_S:g} s"
        try:
            word = self._pipe.recv()
        except EOFError:
            raise AssertionError("a process ended before it told anything") from None
        if isinstance(word, Exception):
            raise AssertionError(f"a process failed: {word}") from word
        return word

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def ended(self) -> bool:
        """Wait for its end: whether somebody killed it. Fails when it takes too long."""
        self._process.join(LIMIT_S)
        code = self._process.exitcode
        self.close()
        assert code is not None, f"a process did not end within {LIMIT_S:g} s"
        return bool(code == -signal.SIGKILL)

    def close(self) -> None:
        """End it, whatever it does."""
        self.kill()
        self._pipe.close()


def die_after(seconds: float) -> None:
    """Kill this process: at once, or from a thread, in the middle of whatever it then does."""
    if seconds <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def _run(
    pipe: Connection, work: Callable[..., None], arguments: tuple[Any, ...], path: list[str]
) -> None:
    sys.path[:] = path
    try:
        work(pipe.send, *arguments)
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
