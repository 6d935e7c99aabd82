"""One env.py at a time runs in a process, which stays as it was."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from automigrator.errors import JudgedError
from automigrator.migrations import alembic_private
from automigrator.migrations.process import guarded
from automigrator.support.backoff import Deadline
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of
from automigrator.target import Target

logger = logger_of(__name__)

T = TypeVar("T")

_alembic = threading.Lock()

_holder = ""

"""The name of the target whose env.py runs."""


@asynccontextmanager
async def alembic_to_ourselves(target: Target) -> AsyncIterator[None]:
    """Context manager: hold the process-wide lock, as `alembic.op` is a global.

    Raises JudgedError when another migration of this process has it for longer than the
    target's `lock_timeout`.
    """
    await _have_alembic(target)
    try:
        yield
    finally:
        _alembic.release()


async def alone_in_thread(target: Target, function: Callable[[], T]) -> T:
    """Run in a thread that holds the lock until its end, even when the caller is cancelled.

    Raises what `alembic_to_ourselves` raises.
    """

    def work() -> T:
        try:
            return function()
        finally:
            _alembic.release()

    await _have_alembic(target)
    return await in_thread(work)


async def _have_alembic(target: Target) -> None:
    global _holder
    deadline = Deadline(target.lock_timeout)
    told = False
    while not _alembic.acquire(blocking=False):  # held by other threads and loops
        if deadline.is_over():
            raise JudgedError(
                "lock-timeout",
                f"another migration of this process, of target {_holder!r}, has had Alembic "
                f"to itself for longer than Timeouts(lock={target.lock_timeout:g}); nothing was "
                "changed",
                "migrate a process's databases one after another, or raise Timeouts(lock=)",
            )
        if not told:
            told = True
            logger.info("%s: waiting for the migration of %s to end", target.name, _holder)
        await asyncio.sleep(0.01)
    _holder = target.name


@contextmanager
def running_env() -> Iterator[None]:
    """Context manager: guard the process around one execution of env.py."""
    with guarded():
        try:
            yield
        finally:
            alembic_private.remove_operations_proxy()
