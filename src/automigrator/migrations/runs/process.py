"""What an env.py changes in the process is undone after it; what others change meanwhile stays.

Several may run at once. What cannot be kept apart then is noticed before it is done, and the run
is done again alone. What cannot be told apart from the application's own changes is left.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from typing import Any

from automigrator.migrations.runs.inside import (
    Acts,
    Inside,
    Patches,
    entered,
    inside_env,
    replaced,
)
from automigrator.migrations.runs.logging_setup import guarded_logging
from automigrator.migrations.runs.noted import Changes, NotedList, given_back, noted

_NOT_THEIRS = (
    str(Path(__file__).parents[1]),
    *({*sysconfig.get_paths().values()} - {sysconfig.get_path("data")}),
)
"""Where code is of which the application's is none: a driver's threads are no env.py's own."""


@contextmanager
def guarded(known: Acts | None = None, did: Acts | None = None) -> Iterator[Inside]:
    """Context manager: code of an env.py runs here; what it does to the process is undone.

    `known`: where others run beside, what the first run of their history did; None where it is
    alone. `did`: where it is alone, what earlier runs are known to do. Yields the run.
    """
    inside = Inside(known, did)
    with ExitStack() as stack:
        stack.enter_context(_path(inside))
        stack.enter_context(_calls.needed())
        stack.callback(_folder.undo, inside)
        stack.callback(_environ.undo, inside)
        stack.enter_context(guarded_logging(inside))
        stack.enter_context(entered(inside))
        yield inside


@contextmanager
def guarded_path() -> Iterator[None]:
    """Context manager: undo what `prepend_sys_path` adds to `sys.path` at every load."""
    inside = Inside()
    with _path(inside), entered(inside):
        yield


class _Path(NotedList):
    def about_to(self, inside: Inside, put: Counter[Any], taken: Counter[Any]) -> None:
        for item in put:
            inside.does("path", str(item), True, "it adds to sys.path")
        for item, count in taken.items():
            if count > self.put_by(inside, item):
                inside.must_be_alone("it takes from sys.path")

    def __contains__(self, item: object) -> bool:
        inside = inside_env.get()
        if inside and inside.shares:  # one that only others have put in goes away with them
            return self.count(item) > self.put_by_others(inside, item)
        return super().__contains__(item)


@contextmanager
def _path(inside: Inside) -> Iterator[None]:
    items = noted(sys, "path", inside, _Path)
    try:
        yield
    finally:
        if sys.path is not items:
            inside.why_alone = inside.why_alone or "it replaces sys.path"
        given_back(sys, "path", items, inside)


def _write(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


_environ = Changes(os.environ.get, _write)


def _go_to(folder: str) -> None:
    if folder != os.getcwd():  # a process may be where it may not go, so only a change is undone
        os.chdir(folder)


_folder = Changes(lambda _: os.getcwd(), lambda _, folder: _go_to(folder))


@contextmanager
def _environ_noted() -> Iterator[None]:
    """A run beside others does not see what they have set, and itself has not yet."""
    kind = type(os.environ)
    set_, delete, get, names = (
        *(kind.__setitem__, kind.__delitem__, kind.__getitem__, kind.__iter__),
    )

    def changed(key: Any, value: Any, change: Callable[[], object]) -> None:
        inside, name = inside_env.get(), os.fsdecode(key)
        if not inside:
            change()
            return
        effect = None if value is None else os.fsdecode(value)
        inside.does("environ", name, effect, f"it sets the environment variable {name}")
        _environ.note(inside, name, change)

    def setitem(environ: Any, key: Any, value: Any) -> None:
        changed(key, value, lambda: set_(environ, key, value))

    def delitem(environ: Any, key: Any) -> None:
        changed(key, None, lambda: delete(environ, key))

    def hidden() -> dict[Any, Any]:
        inside = inside_env.get()
        return dict(_environ.of_others(inside)) if inside and inside.shares else {}

    def getitem(environ: Any, key: Any) -> Any:
        others = hidden()
        if not others or (name := os.fsdecode(key)) not in others:
            return get(environ, key)
        if others[name] is None:
            raise KeyError(key)
        return os.fsencode(others[name]) if isinstance(key, bytes) else others[name]

    def iterated(environ: Any) -> Iterator[Any]:
        as_key: Callable[[str], Any] = os.fsencode if environ is not os.environ else str
        there = {as_key(name): value is not None for name, value in hidden().items()}
        yield from (key for key in names(environ) if key not in there)
        yield from (key for key, is_there in there.items() if is_there)

    with (
        replaced(kind, "__setitem__", setitem),
        replaced(kind, "__delitem__", delitem),
        replaced(kind, "__getitem__", getitem),
        replaced(kind, "__iter__", iterated),
    ):
        yield


@contextmanager
def _folder_noted() -> Iterator[None]:
    change = os.chdir

    def chdir(path: Any) -> None:
        inside = inside_env.get()
        if not inside or _is_here(path):
            change(path)
            return
        inside.must_be_alone("it changes the working directory")
        _folder.note(inside, "", lambda: change(path))

    with replaced(os, "chdir", chdir):
        yield


def _is_here(path: Any) -> bool:
    try:
        return os.path.samefile(path, os.curdir)
    except OSError:
        return False


@contextmanager
def _threads_known() -> Iterator[None]:
    """Let the threads of an env.py know that they are its own, and an executor's whose work it is.

    An executor keeps its threads, and whoever comes next is served by them.
    """
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    def started(thread: threading.Thread) -> None:
        if inside := inside_env.get():
            if not sys._getframe(1).f_code.co_filename.startswith(_NOT_THEIRS):
                inside.must_be_alone("it starts threads of its own")
            vars(thread)["run"] = partial(copy_context().run, thread.run)
        start(thread)

    def submitted(executor: Any, function: Any, /, *arguments: Any, **options: Any) -> Any:
        if not inside_env.get():
            return submit(executor, function, *arguments, **options)
        within = partial(copy_context().run, function)
        return Context().run(submit, executor, within, *arguments, **options)

    with (
        replaced(threading.Thread, "start", started),
        replaced(ThreadPoolExecutor, "submit", submitted),
    ):
        yield


@contextmanager
def _every_call() -> Iterator[None]:
    with _environ_noted(), _folder_noted(), _threads_known():
        yield


_calls = Patches(_every_call)
