"""The application's process stays as it was while somebody's env.py runs in it."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from alembic.config import Config

from automigrator.errors import JudgedError
from automigrator.migrations import alembic_private
from automigrator.support.backoff import Deadline
from automigrator.support.concurrency import in_thread
from automigrator.target import Target

logger = logging.getLogger(__name__)

T = TypeVar("T")

inside_env: ContextVar[bool] = ContextVar("automigrator_inside_env", default=False)

"""Whether an env.py has called this code."""

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
                f"another migration of this process, of target {_holder!r}, has had Alembic to "
                f"itself for lock_timeout={target.lock_timeout:g} s; nothing was changed",
                "migrate a process's databases one after another, or raise Target(lock_timeout=)",
            )
        if not told:
            told = True
            logger.info("%s: waiting for the migration of %s to end", target.name, _holder)
        await asyncio.sleep(0.01)
    _holder = target.name


@contextmanager
def running_env(config: Config) -> Iterator[None]:
    """Context manager: guard the process around one execution of env.py, on its `sys.path`."""
    with _restored_state(), _replaced_calls():
        token = inside_env.set(True)
        try:
            sys.path[:0] = config.get_prepend_sys_paths_list() or []
            yield
        finally:
            alembic_private.remove_operations_proxy()
            inside_env.reset(token)


@contextmanager
def restored_path() -> Iterator[None]:
    """Context manager: restore `sys.path`, which `prepend_sys_path` extends at every load."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path


@contextmanager
def replaced(owner: Any, name: str, by: Any) -> Iterator[None]:
    """Context manager: let a module's attribute be something else."""
    own = vars(owner)[name]
    setattr(owner, name, by)
    try:
        yield
    finally:
        setattr(owner, name, own)


@contextmanager
def _replaced_calls() -> Iterator[None]:
    """Context manager: keep env.py from calls that would harm the application.

    `fileConfig` and `dictConfig` would disable its loggers and close its handlers.
    """
    with (
        replaced(logging.config, "fileConfig", partial(_outside_env, logging.config.fileConfig)),
        replaced(logging.config, "dictConfig", partial(_outside_env, logging.config.dictConfig)),
    ):
        yield


def _outside_env(configure: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    if not inside_env.get():
        configure(*args, **kwargs)


@contextmanager
def _restored_state() -> Iterator[None]:
    cwd, environ = os.getcwd(), dict(os.environ)
    try:
        with restored_path(), _restored_logging():
            yield
    finally:
        if os.getcwd() != cwd:  # a process may be where it may not go
            os.chdir(cwd)
        if dict(os.environ) != environ:
            os.environ.clear()
            os.environ.update(environ)


@contextmanager
def _restored_logging() -> Iterator[None]:
    disabled = logging.root.manager.disable
    known = (logging.root, *logging.root.manager.loggerDict.values())
    state = [
        (each, each.level, each.propagate, each.disabled, list(each.handlers))
        for each in known
        if isinstance(each, logging.Logger)
    ]
    try:
        yield
    finally:
        logging.disable(disabled)
        for each, level, propagate, off, handlers in state:
            if each.level != level:
                each.setLevel(level)
            each.propagate, each.disabled, each.handlers[:] = propagate, off, handlers
