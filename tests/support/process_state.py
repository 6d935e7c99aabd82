"""What a run must leave as it was in the application's process."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import alembic.context
import alembic.op


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Fails where the process is left other than it was, whatever happens within."""
    before, threads = process_state(), set(threading.enumerate())
    try:
        yield
    finally:
        for thread in set(threading.enumerate()) - threads:
            thread.join(1)  # one that has answered may still be on its way out
        different = changes(before, process_state())
        assert not different, different
        assert set(threading.enumerate()) <= threads


def process_state() -> dict[str, Any]:
    """Everything an env.py is known to change, comparable before and after."""
    known = [lg for lg in logging.Logger.manager.loggerDict.values() if not _is_placeholder(lg)]
    return {
        "loggers": {
            lg.name: (lg.level, lg.propagate, lg.disabled, [*map(_handler, lg.handlers)])
            for lg in (logging.getLogger(), *known)
        },
        "disabled below": logging.root.manager.disable,
        "path": list(sys.path),
        "cwd": os.getcwd(),
        "environ": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        "signals": {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
        "proxies": (_installed(alembic.op), _installed(alembic.context)),
        "calls": (asyncio.run, logging.config.fileConfig, logging.config.dictConfig),
    }


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What differs, as (before, after); a logger that is new is no change."""
    known = {name: after["loggers"].get(name) for name in before["loggers"]}
    after = {**after, "loggers": known}
    return {part: (before[part], after[part]) for part in before if before[part] != after[part]}


def _handler(handler: logging.Handler) -> tuple[logging.Handler, object]:
    """A handler, and what it writes to: None once somebody has closed its file."""
    return handler, getattr(handler, "stream", None)


def _is_placeholder(logger: Any) -> bool:
    return not isinstance(logger, logging.Logger)


def _installed(module: Any) -> bool:
    return getattr(module, "_proxy", None) is not None
