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
        for part in (_path, _environ, _folder, _loggers, _calls, _inside):
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
    """Context manager: let a module's, class's or object's attribute be something else."""
    own = vars(owner).get(name, _ABSENT)
    setattr(owner, name, by)
    try:
        yield
    finally:
        if own is not _ABSENT:
            setattr(owner, name, own)
        elif name in vars(owner):
            delattr(owner, name)


class _Changes:
    """What env.py has changed, by key, so that it can be put back."""

    def __init__(self, read: Callable[[Any], Any], write: Callable[[Any, Any], object]) -> None:
        self._read = read
        self._write = write
        self._seen: dict[Any, tuple[Any, Any]] = {}
        """What there was before env.py, and what it left."""

    def note(self, key: Any, change: Callable[[], object]) -> None:
        """Make a change, and note it where env.py makes it."""
        if not inside_env.get():
            change()
            return
        before = self._seen[key][0] if key in self._seen else self._read(key)
        change()
        self._seen[key] = before, self._read(key)

    def undo(self) -> bool:
        """Put back what nobody else has changed since; return whether env.py changed anything."""
        for key, (before, left) in self._seen.items():
            if left == self._read(key):
                self._write(key, before)
        return bool(self._seen)


@contextmanager
def _environ() -> Iterator[None]:
    kind = type(os.environ)
    set_, delete = kind.__setitem__, kind.__delitem__

    def write(name: str, value: str | None) -> None:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    changes = _Changes(os.environ.get, write)

    def setitem(environ: Any, key: Any, value: Any) -> None:
        changes.note(os.fsdecode(key), lambda: set_(environ, key, value))

    def delitem(environ: Any, key: Any) -> None:
        changes.note(os.fsdecode(key), lambda: delete(environ, key))

    try:
        with replaced(kind, "__setitem__", setitem), replaced(kind, "__delitem__", delitem):
            yield
    finally:
        changes.undo()


@contextmanager
def _folder() -> Iterator[None]:
    """The working directory; a process may be where it may not go, so only a change is undone."""
    chdir = os.chdir
    changes = _Changes(
        lambda _: os.getcwd(), lambda _, folder: folder == os.getcwd() or chdir(folder)
    )
    try:
        with replaced(os, "chdir", lambda path: changes.note("", lambda: chdir(path))):
            yield
    finally:
        changes.undo()


@contextmanager
def _loggers() -> Iterator[None]:
    """Levels, switches and handlers of loggers that were there before env.py."""
    manager = logging.root.manager
    known = {logging.root, *manager.loggerDict.values(), manager}
    changes = _Changes(
        lambda key: getattr(key[0], key[1], None), lambda key, value: setattr(key[0], key[1], value)
    )

    def set_(owner: Any, name: str, value: Any) -> None:
        change = partial(object.__setattr__, owner, name, value)
        if owner in known:
            changes.note((owner, name), change)
        else:
            change()

    lists = {
        logger: NotedList(logger.handlers) for logger in known if isinstance(logger, logging.Logger)
    }
    for logger, noted in lists.items():
        logger.handlers = noted
    try:
        with (
            replaced(logging.Logger, "__setattr__", set_),
            replaced(logging.Manager, "__setattr__", set_),
        ):
            yield
    finally:
        if changes.undo():
            manager._clear_cache()  # type: ignore[attr-defined]  # isEnabledFor's
        for logger, noted in lists.items():
            if logger.handlers is noted:
                logger.handlers = noted.restored()


@contextmanager
def _calls() -> Iterator[None]:
    """Keep env.py from setting up logging, and let its threads know that they are its own.

    The functions of `logging.config` may be bound to other names long since, so what they call
    is replaced as well. No handler that was there before is closed, whoever closes it.
    """
    start = threading.Thread.start

    def started(thread: threading.Thread) -> None:
        if inside_env.get():
            vars(thread)["run"] = partial(copy_context().run, thread.run)
        start(thread)

    skipped: list[tuple[Any, str, Any]] = [
        (logging.config, "fileConfig", None),
        (logging.config, "dictConfig", None),
        (logging.config.DictConfigurator, "configure", None),
        (logging.config, "_clearExistingHandlers", None),
        (logging.config, "_install_handlers", {}),
        (logging.config, "_install_loggers", None),
    ]
    there = (ref() for ref in logging._handlerList)  # type: ignore[attr-defined]  # the only list of all
    skipped += [(handler, "close", None) for handler in there if handler is not None]
    with ExitStack() as stack:
        for owner, name, instead in skipped:
            if own := getattr(owner, name, None):
                stack.enter_context(replaced(owner, name, _skipped_in_env(own, instead)))
        stack.enter_context(replaced(threading.Thread, "start", started))
        yield


def _skipped_in_env(function: Callable[..., Any], instead: Any) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        return instead if inside_env.get() else function(*arguments, **options)

    return called
