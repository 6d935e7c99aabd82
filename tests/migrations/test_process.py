"""What env.py does to the process is undone; what the application does meanwhile stays."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from logging.config import dictConfig, fileConfig
from pathlib import Path

import pytest
from support.alembic_projects import heads, linear, project, revision
from support.process_state import unchanged_process

from automigrator import Migrator, Target
from automigrator.migrations.runs.inside import inside_env
from automigrator.migrations.runs.process import guarded

SETUP = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "ERROR"},
}

INI = """
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys =
[logger_root]
level = ERROR
handlers = console
[handler_console]
class = StreamHandler
args = ()
"""


class Handler(logging.Handler):
    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.fixture
def handler() -> Iterator[Handler]:
    """One of the application's, at its root logger."""
    handler = Handler()
    logging.root.addHandler(handler)
    yield handler
    logging.root.removeHandler(handler)


def in_another_thread(function: Callable[[], object]) -> None:
    """Call where the application is: not in a thread that env.py has started."""
    thread = threading.Thread(target=function)
    token = inside_env.set(None)
    thread.start()
    thread.join()
    inside_env.reset(token)


@pytest.mark.parametrize(
    "setup",
    [
        lambda file: dictConfig(SETUP),
        lambda file: logging.config.dictConfig(SETUP),
        lambda file: fileConfig(file),
        lambda file: logging.basicConfig(force=True, level=logging.ERROR),
        lambda file: logging.shutdown(),
        lambda file: [each.close() for each in logging.root.handlers],
        lambda file: logging.root.handlers.clear(),
        lambda file: setattr(logging.root, "handlers", [logging.NullHandler()]),
    ],
    ids=[
        *("dictConfig, bound before", "dictConfig", "fileConfig, bound before", "basicConfig"),
        *("shutdown", "close", "clear", "assigned"),
    ],
)
def test_no_handler_of_the_application_is_closed_or_lost(
    setup: Callable[[str], object], handler: Handler, tmp_path: Path
) -> None:
    (tmp_path / "logging.ini").write_text(INI)
    with unchanged_process(), guarded():
        setup(str(tmp_path / "logging.ini"))
    assert not handler.closed
    assert handler in logging.root.handlers


def test_the_application_may_set_up_logging_meanwhile(handler: Handler) -> None:
    level = logging.root.level
    handlers = list(logging.root.handlers)
    try:
        with guarded():
            in_another_thread(lambda: dictConfig(SETUP))
        assert logging.root.level == logging.ERROR
        assert [type(each) for each in logging.root.handlers] == [logging.StreamHandler]
        assert handler.closed
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


def test_what_env_py_changes_is_undone_in_its_threads_too() -> None:
    def careless() -> None:
        os.environ["AUTOMIGRATOR_A"] = "1"
        os.environ.update(AUTOMIGRATOR_B="2", HOME="/nowhere")
        os.environ.pop("PATH")
        os.environb[b"AUTOMIGRATOR_C"] = b"3"
        os.chdir("/")
        sys.path.insert(0, "/somewhere")
        sys.path += ["/elsewhere"]
        sys.path.pop(2)
        sys.path.append("/passing")
        sys.path.remove("/passing")
        logging.root.setLevel(logging.CRITICAL)
        logging.root.addHandler(logging.NullHandler())
        logging.disable(logging.INFO)
        logging.getLogger("sqlalchemy").propagate = False

    with unchanged_process(), guarded():
        thread = threading.Thread(target=careless)
        thread.start()
        thread.join()
        assert "/somewhere" in sys.path
        assert os.environ["AUTOMIGRATOR_C"] == "3"


def test_what_both_have_changed_is_the_applications(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMIGRATOR_A", "before")
    folder = os.getcwd()
    with guarded():
        os.environ["AUTOMIGRATOR_A"] = "env.py"
        in_another_thread(lambda: os.environ.update(AUTOMIGRATOR_A="application"))
        os.chdir("/")
        in_another_thread(lambda: os.chdir("/tmp"))
    assert os.environ["AUTOMIGRATOR_A"] == "application"
    assert os.getcwd() == os.path.realpath("/tmp")
    os.chdir(folder)


def test_a_thread_of_an_earlier_env_py_is_the_applications_by_now() -> None:
    """An executor keeps its threads, and whoever comes next is served by them."""
    begin, seen = threading.Event(), []

    def serve() -> None:
        begin.wait(5)
        seen.append(bool(inside_env.get()))

    with guarded():
        thread = threading.Thread(target=serve)
        thread.start()
    with guarded():
        begin.set()
        thread.join()
    assert seen == [False]


@pytest.mark.long("[postgresql")
async def test_what_another_task_changes_while_a_revision_runs_stays(
    database_url: str, other_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("AUTOMIGRATOR_SECRET", raising=False)
    began = tmp_path / "began"

    def revisions(folder: Path) -> None:
        linear(folder)
        wait = f"import pathlib, time\npathlib.Path({str(began)!r}).touch()\ntime.sleep(0.4)"
        revision(folder, "r4", "r3", upgrade=wait)

    made = project(tmp_path, "generic", database_url, revisions=revisions, other_url=other_url)
    logger, handler = logging.getLogger(f"task{tmp_path}"), logging.NullHandler()
    path = sys.path

    async def meanwhile() -> None:
        while not began.exists():  # noqa: ASYNC110 - a thread makes it
            await asyncio.sleep(0.01)
        os.environ["AUTOMIGRATOR_SECRET"] = "given"
        sys.path.append("/plugins")
        path.append("/more/plugins")
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR)

    target = Target(database_url, made.config)
    await asyncio.gather(Migrator(target, mode="migrate").run(), meanwhile())

    assert heads(database_url) == {"r4"}
    assert os.environ.pop("AUTOMIGRATOR_SECRET") == "given"
    assert sys.path is path
    assert path[-2:] == ["/plugins", "/more/plugins"]
    assert (logger.handlers, logger.level) == ([handler], logging.ERROR)


class Beside(threading.Thread):
    """A run of an env.py that changes the process, and lasts until it is told to end."""

    def __init__(
        self, name: str, known: dict[tuple[str, str], object], before: str | None = None
    ) -> None:
        super().__init__(name=name)
        self.known, self.before, self.finds = known, before, "1"
        self.changed, self.ends = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.start()
        assert self.changed.wait(10)

    def run(self) -> None:
        try:
            with guarded(self.known):
                assert {**os.environ}.get("AUTOMIGRATOR_A") == self.before
                assert os.environ.get("AUTOMIGRATOR_A") == self.before
                assert "/somewhere" not in sys.path
                os.environ["AUTOMIGRATOR_A"] = "1"
                sys.path.insert(0, "/somewhere")
                assert "/somewhere" in sys.path
                logging.getLogger("the.application").setLevel(logging.CRITICAL)
                logging.getLogger("the.application").addHandler(logging.NullHandler())
                self.changed.set()
                assert self.ends.wait(10)
                assert os.environ["AUTOMIGRATOR_A"] == self.finds
                assert {**os.environ}["AUTOMIGRATOR_A"] == self.finds
                assert sys.path[0] == "/somewhere"
                logging.getLogger("the.application").info("not said")
        except BaseException as error:  # noqa: BLE001 - raised by `end`
            self.error = error
            self.changed.set()

    def end(self) -> None:
        self.ends.set()
        self.join()
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_runs_beside_each_other_may_end_in_any_order(order: tuple[int, ...]) -> None:
    known = {("environ", "AUTOMIGRATOR_A"): "1", ("path", "/somewhere"): True}
    with unchanged_process():
        runs = [Beside(str(number), known) for number in range(3)]
        for index in order[:-1]:
            runs[index].end()
            assert "/somewhere" in sys.path
        later = Beside("later", known)
        runs[order[-1]].end()
        later.end()


def test_what_the_application_changes_beside_several_runs_is_its_own() -> None:
    known = {("environ", "AUTOMIGRATOR_A"): "1", ("path", "/somewhere"): True}
    path = sys.path
    try:
        first, second = Beside("first", known), Beside("second", known)
        os.environ["AUTOMIGRATOR_A"] = "2"
        path.append("/elsewhere")
        first.finds = "2"
        first.end()
        third = Beside("third", known, "2")
        second.end()
        third.end()
        assert (os.environ["AUTOMIGRATOR_A"], sys.path[-1]) == ("2", "/elsewhere")
        assert sys.path is path
        assert "/somewhere" not in path
    finally:
        del os.environ["AUTOMIGRATOR_A"]
        path.remove("/elsewhere")


def test_work_that_is_given_to_an_executor_belongs_to_who_gives_it() -> None:
    """The thread that does it may have been started for another one."""
    seen: list[object] = []
    with ThreadPoolExecutor(1) as executor, guarded() as first:
        assert executor.submit(inside_env.get).result() is first
        in_another_thread(lambda: seen.append(executor.submit(inside_env.get).result()))
        with guarded() as second:
            assert executor.submit(inside_env.get).result() is second
    assert seen == [None]
