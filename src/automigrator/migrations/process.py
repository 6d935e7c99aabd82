"""What an env.py changes in the process is undone after it; what others change meanwhile stays.

The code of env.py is known by `inside_env`, a context variable that its threads have as well.
What cannot be told apart from the application's own changes is left.
"""

from __future__ import annotations

import logging
import logging.config
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

_ABSENT = object()


class Inside:
    """True while the run of an env.py lasts, in every thread that it started."""

    lasts = True

    def __bool__(self) -> bool:
        return self.lasts


inside_env: ContextVar[Inside | None] = ContextVar("automigrator_inside_env", default=None)

"""Whether an env.py has called this code."""


@contextmanager
def guarded() -> Iterator[None]:
    """Context manager: code of an env.py runs here; what it does to the process is undone."""
    with ExitStack() as stack:
        for part in (_path, _environ, _folder, _loggers, _open_handlers, _calls, _inside):
            stack.enter_context(part())
        yield


@contextmanager
def guarded_path() -> Iterator[None]:
    """Context manager: undo what `prepend_sys_path` adds to `sys.path` at every load."""
    with _path(), _inside():
        yield


@contextmanager
def _inside() -> Iterator[None]:
    inside = Inside()
    token = inside_env.set(inside)
    try:
        yield
    finally:
        inside_env.reset(token)
        inside.lasts = False


class NotedList(list[Any]):
    """A list that notes what env.py puts in and takes out."""

    def __init__(self, original: list[Any]) -> None:
        super().__init__(original)
        self.original = original
        self.before: list[Any] | None = None
        """What there was before env.py."""
        self.balance: Counter[Any] = Counter()
        """How many of each it has put in, less those that it has taken out."""

    def restored(self) -> list[Any]:
        """The original list, with what others have done to this one."""
        items = list(self)
        for item, count in self.balance.items():
            for _ in range(count):
                if item in items:
                    items.remove(item)
            for _ in range(-count):
                assert self.before is not None
                items.insert(self.before.index(item), item)
        if self.original != items:
            self.original[:] = items
        return self.original


def _noting(name: str) -> Callable[..., Any]:
    change = getattr(list, name)

    def changed(items: NotedList, *arguments: Any, **options: Any) -> Any:
        if not inside_env.get():
            return change(items, *arguments, **options)
        before = list(items)
        result = change(items, *arguments, **options)
        if items.before is None:
            items.before = before
        items.balance.update(items)
        items.balance.subtract(before)
        return result

    return changed


for _name in ("append", "insert", "extend", "remove", "pop", "clear", "__setitem__"):
    setattr(NotedList, _name, _noting(_name))
for _name in ("__delitem__", "__iadd__", "__imul__"):
    setattr(NotedList, _name, _noting(_name))


@contextmanager
def _path() -> Iterator[None]:
    noted, given = NotedList(sys.path), list(sys.path)
    sys.path = noted
    try:
        yield
    finally:
        # what was added to the list itself, by a name that somebody had for it
        noted += [each for each in noted.original if each not in given and each not in noted]
        if sys.path is noted:
            sys.path = noted.restored()


@contextmanager
def replaced(owner: Any, name: str, by: Any) -> Iterator[None]:
    """Context manager: let a module's or class's attribute be something else."""
    own = vars(owner).get(name, _ABSENT)
    setattr(owner, name, by)
    try:
        yield
    finally:
        if own is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


@contextmanager
def _environ() -> Iterator[None]:
    kind = type(os.environ)
    set_, delete = kind.__setitem__, kind.__delitem__
    keys: dict[str, tuple[str | None, str | None]] = {}
    """What was there before env.py, and what it left."""

    def noted(environ: Any, key: Any, change: Callable[[], None]) -> None:
        name = os.fsdecode(key)
        before = os.environ.get(name)
        change()
        if inside_env.get():
            keys[name] = (keys[name][0] if name in keys else before, os.environ.get(name))

    def setitem(environ: Any, key: Any, value: Any) -> None:
        noted(environ, key, lambda: set_(environ, key, value))

    def delitem(environ: Any, key: Any) -> None:
        noted(environ, key, lambda: delete(environ, key))

    try:
        with replaced(kind, "__setitem__", setitem), replaced(kind, "__delitem__", delitem):
            yield
    finally:
        for name, (before, left) in keys.items():
            if os.environ.get(name) != left:
                continue  # somebody has changed it since
            if before is not None:
                os.environ[name] = before
            elif left is not None:
                del os.environ[name]


@contextmanager
def _folder() -> Iterator[None]:
    """The working directory; a process may be where it may not go, so only a change is undone."""
    chdir = os.chdir
    seen: list[str] = []
    """Where it was before env.py, and where that went last."""

    def changed(*arguments: Any, **options: Any) -> None:
        if not inside_env.get():
            return chdir(*arguments, **options)
        before = seen[0] if seen else os.getcwd()
        chdir(*arguments, **options)
        seen[:] = [before, os.getcwd()]

    try:
        with replaced(os, "chdir", changed):
            yield
    finally:
        if seen and seen[0] != os.getcwd() == seen[1]:
            chdir(seen[0])


@contextmanager
def _loggers() -> Iterator[None]:
    """Levels, switches and handlers of loggers that were there before env.py."""
    manager = logging.root.manager
    known = {logging.root, *manager.loggerDict.values(), manager}
    values: dict[tuple[Any, str], tuple[Any, Any]] = {}
    """What each was before env.py, and what that left."""
    lists = {
        logger: NotedList(logger.handlers) for logger in known if isinstance(logger, logging.Logger)
    }

    def set_(owner: Any, name: str, value: Any) -> None:
        before = getattr(owner, name, None)
        object.__setattr__(owner, name, value)
        if inside_env.get() and owner in known:
            first = values[owner, name][0] if (owner, name) in values else before
            values[owner, name] = (first, getattr(owner, name))

    for logger, noted in lists.items():
        logger.handlers = noted
    try:
        with (
            replaced(logging.Logger, "__setattr__", set_),
            replaced(logging.Manager, "__setattr__", set_),
        ):
            yield
    finally:
        for (owner, name), (before, left) in values.items():
            if getattr(owner, name) is left:
                setattr(owner, name, before)
        for logger, noted in lists.items():
            if logger.handlers is noted:
                logger.handlers = noted.restored()
        if values:
            manager._clear_cache()  # type: ignore[attr-defined]  # isEnabledFor's


@contextmanager
def _open_handlers() -> Iterator[None]:
    """No handler that was there before is closed by env.py, whatever it calls."""
    handlers = [each for each in (ref() for ref in logging._handlerList) if each is not None]  # type: ignore[attr-defined]  # the only list of all
    closing: list[tuple[logging.Handler, Any]] = []
    for handler in handlers:
        if "close" not in vars(handler):
            vars(handler)["close"] = close = partial(_outside_env, handler.close)
            closing.append((handler, close))
    try:
        yield
    finally:
        for handler, close in closing:
            if vars(handler).get("close") is close:
                del vars(handler)["close"]


@contextmanager
def _calls() -> Iterator[None]:
    """Keep env.py from setting up logging, and let its threads know that they are its own.

    The functions of `logging.config` may be bound to other names long since, so what they call
    is replaced as well.
    """
    start = threading.Thread.start

    def started(thread: threading.Thread) -> None:
        if inside_env.get():
            vars(thread)["run"] = partial(copy_context().run, thread.run)
        start(thread)

    with ExitStack() as stack:
        for owner, name, instead in (
            (logging.config, "fileConfig", None),
            (logging.config, "dictConfig", None),
            (logging.config.DictConfigurator, "configure", None),
            (logging.config, "_clearExistingHandlers", None),
            (logging.config, "_install_handlers", {}),
            (logging.config, "_install_loggers", None),
        ):
            if own := vars(owner).get(name):
                by = _skipped_in_env(own, instead)
                stack.enter_context(replaced(owner, name, by))
        stack.enter_context(replaced(threading.Thread, "start", started))
        yield


def _skipped_in_env(function: Callable[..., Any], instead: Any) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        return instead if inside_env.get() else function(*arguments, **options)

    return called


def _outside_env(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return None if inside_env.get() else function(*arguments, **options)
