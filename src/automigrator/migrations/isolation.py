"""The application's process stays as it was while somebody's env.py runs in it."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from sqlalchemy.util import await_only

from automigrator.errors import JudgedError
from automigrator.support.backoff import Deadline
from automigrator.support.concurrency import in_thread
from automigrator.target import Target

logger = logging.getLogger(__name__)

T = TypeVar("T")

inside_env: ContextVar[bool] = ContextVar("automigratorinside_env", default=False)

_on_loop: ContextVar[bool] = ContextVar("automigrator_env_on_loop", default=False)

_alembic = threading.Lock()

_holder = ""

"""The name of the target whose env.py runs."""

_SIGNALS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))


@asynccontextmanager
async def alembic_to_ourselves(target: Target) -> AsyncIterator[None]:
    """Hold the process-wide lock: `alembic.op` and `alembic.context` are globals.

    Raises JudgedError when another migration of this process has it for longer than the
    target's `lock_timeout`.
    """
    await _have_alembic(target)
    try:
        yield
    finally:
        _alembic.release()


async def alone_in_thread(target: Target, function: Callable[[], T]) -> T:
    """Run in a thread that holds the lock until its end, also where a cancelled caller is gone.

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
def running_env(*, on_loop: bool) -> Iterator[None]:
    """Guard the process around one execution of env.py."""
    with _restored_state(), _replaced_calls():
        tokens = (inside_env.set(True), _on_loop.set(on_loop))
        try:
            yield
        finally:
            _on_loop.reset(tokens[1])
            inside_env.reset(tokens[0])


@contextmanager
def restored_path() -> Iterator[None]:
    """`prepend_sys_path` grows `sys.path` at every load; give it back."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path


@contextmanager
def _replaced_calls() -> Iterator[None]:
    """Calls that would harm the application do so only outside env.py.

    `fileConfig` and `dictConfig` would disable its loggers and close its handlers; `asyncio.run`
    on a running loop could only raise, and is carried on that loop instead.
    """
    file_config, dict_config = logging.config.fileConfig, logging.config.dictConfig
    run = asyncio.run

    def quiet_file_config(*args: Any, **kwargs: Any) -> None:
        if not inside_env.get():
            file_config(*args, **kwargs)

    def quiet_dict_config(*args: Any, **kwargs: Any) -> None:
        if not inside_env.get():
            dict_config(*args, **kwargs)

    def carried_run(main: Any, **kwargs: Any) -> Any:
        return await_only(main) if _on_loop.get() else run(main, **kwargs)

    logging.config.fileConfig, logging.config.dictConfig = (
        quiet_file_config,
        quiet_dict_config,
    )
    asyncio.run = carried_run
    try:
        yield
    finally:
        logging.config.fileConfig, logging.config.dictConfig = file_config, dict_config
        asyncio.run = run


@contextmanager
def _restored_state() -> Iterator[None]:
    loggers, disabled = _logging_state(), logging.root.manager.disable
    cwd, environ = os.getcwd(), dict(os.environ)
    signals = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        with restored_path():
            yield
    finally:
        _restore_logging(loggers)
        logging.disable(disabled)
        if os.getcwd() != cwd:
            os.chdir(cwd)
        if dict(os.environ) != environ:
            os.environ.clear()
            os.environ.update(environ)
        if threading.current_thread() is threading.main_thread():
            for number, handler in signals.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


_LoggerState = tuple[logging.Logger, int, bool, bool, list[logging.Handler]]


def _logging_state() -> list[_LoggerState]:
    known = [
        item
        for item in logging.Logger.manager.loggerDict.values()
        if isinstance(item, logging.Logger)
    ]
    return [
        (lg, lg.level, lg.propagate, lg.disabled, list(lg.handlers))
        for lg in (logging.getLogger(), *known)
    ]


def _restore_logging(state: list[_LoggerState]) -> None:
    for logger, level, propagate, disabled, handlers in state:
        if logger.level != level:
            logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled
        if logger.handlers != handlers:
            logger.handlers[:] = handlers
