"""What both suites have: databases for every case, and no need of any plugin of pytest."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NoReturn, overload

import pytest
from sqlalchemy import URL

from automigrator.backends.access import Access
from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.registry import backend_for
from automigrator.target import Target
from automigrator.testing.contents import Contents, checksums
from automigrator.testing.databases import Databases, PostgreSQLServer, SQLiteFiles

POSTGRES_VARIABLE = "AUTOMIGRATOR_TEST_POSTGRES"

"""The environment variable with the DSN of a role that may create databases."""

TABLE = VersionTable()

FREE_S = 60.0

"""Seconds in which a lock that nobody holds is had, on a busy machine too."""

_BLOCKED_S = 3.0

"""Seconds beyond its limit in which a loop that is not blocked ends a case."""


Test = Callable[[Any], Coroutine[Any, Any, None]]


@overload
def case(test: Test) -> Callable[[Any], None]: ...
@overload
def case(*, needs: str) -> Callable[[Test], Callable[[Any], None]]: ...
def case(test: Test | None = None, *, needs: str = "") -> Any:
    """Make a case a plain method for pytest to call, whatever its settings do with coroutines.

    `needs` names a part that a backend may leave out: the case is skipped where `offers` does
    not declare it. A case fails after the suite's `limit_s`, where it blocks the event loop, too.
    """
    if test is None:
        return functools.partial(case, needs=needs)

    @functools.wraps(test)
    def run(self: Any) -> None:
        if needs and needs not in self.offered():
            pytest.skip(f"it needs {needs}, which the backend does not declare in `offers`")
        with _unblocked(self.limit_s) as answers:
            asyncio.run(_within(test(self), self.limit_s, answers))

    del run.__wrapped__  # what pytest would look at instead
    return run


async def _within(
    work: Coroutine[Any, Any, None], limit_s: float, answers: Callable[[], None]
) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=limit_s)
    answers()
    if not task.done():
        frames = ((frame, frame.f_lineno) for frame in task.get_stack())
        at = traceback.StackSummary.extract(frames)
        task.cancel()
        await asyncio.wait({task}, timeout=FREE_S)
        raise AssertionError(f"not over after {limit_s:g} s; it waited at\n{_told(at)}")
    await task


@contextmanager
def _unblocked(limit_s: float) -> Iterator[Callable[[], None]]:
    """Context manager: fail where the event loop is blocked, and no timer of its own can fire.

    Yields the call that says that the loop has answered in time.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main:  # only there is a signal handled
        yield lambda: None
        return

    def blocked(number: int, frame: FrameType | None) -> NoReturn:
        at = traceback.extract_stack(frame)
        raise AssertionError(
            f"not over after {limit_s:g} s, and the event loop is blocked at\n{_told(at[-3:])}"
        )

    before = signal.signal(signal.SIGALRM, blocked)
    kill = (main.ident, signal.SIGALRM)
    timer = threading.Timer(limit_s + _BLOCKED_S, signal.pthread_kill, kill)
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()
        signal.signal(signal.SIGALRM, before)


def _told(stack: Sequence[traceback.FrameSummary]) -> str:
    return "".join(traceback.format_list(list(stack)))


class Conformance:
    """The base of the suites; inherit one of them in a class whose name begins with `Test`.

    `databases` says on which the cases run. PostgreSQL is the server of the environment's
    AUTOMIGRATOR_TEST_POSTGRES, else of a fixture `postgres_url`, else the case is skipped.
    Override `open_databases` for others. A `unittest.TestCase` may inherit as well, run by pytest;
    it has the first of `databases`.
    """

    __test__ = False

    databases: ClassVar[Sequence[str]] = ("sqlite", "postgresql")

    limit_s: ClassVar[float] = 120.0
    """Seconds after which a case fails."""

    folder: Path
    """The case's own."""
    fresh: Databases
    """The case's databases."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__test__ = "__test__" not in cls.__dict__ or cls.__dict__["__test__"]

    def open_databases(self, kind: str, folder: Path, fixture: Callable[[str], Any]) -> Databases:
        """Databases for one case; `fixture` gets the value of one of pytest's.

        Raises ValueError for a kind that only an override knows.
        """
        if kind == "sqlite":
            return SQLiteFiles(folder)
        if kind == "postgresql":
            return PostgreSQLServer(os.environ.get(POSTGRES_VARIABLE) or _postgres_url(fixture))
        raise ValueError(f"{kind!r} is not sqlite or postgresql: override open_databases")

    @contextmanager
    def opened(self, kind: str, folder: Path, fixture: Callable[[str], Any]) -> Iterator[None]:
        """Set a case up, and delete its databases afterwards."""
        self.folder = folder
        place = folder / "databases"
        place.mkdir()
        self.fresh = self.open_databases(kind, place, fixture)
        try:
            yield
        finally:
            self.fresh.close()

    def offered(self) -> frozenset[str]:
        """The parts that what is tested declares; a case that needs another one is skipped."""
        return frozenset()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "_kind_of_database" in metafunc.fixturenames:
            metafunc.parametrize("_kind_of_database", list(self.databases), indirect=True)

    @pytest.fixture
    def _kind_of_database(self, request: pytest.FixtureRequest) -> str:
        return str(getattr(request, "param", self.databases[0]))

    @pytest.fixture(autouse=True)
    def _opened(
        self, request: pytest.FixtureRequest, tmp_path: Path, _kind_of_database: str
    ) -> Iterator[None]:
        with self.opened(_kind_of_database, tmp_path, request.getfixturevalue):
            yield


def backend_of(url: URL | str) -> Backend:
    """The backend that a target with this URL gets."""
    return backend_for(Access(Target(url, Path(__file__).parent)))


def silent(seconds: float, leader: str) -> None:
    """Nobody wants to know who is waited for."""


async def nothing_is_open(url: URL, after: str) -> None:
    """Fails where the next start would find a journal, or a lock that is held."""
    backend = backend_of(url)
    sight = await backend.look([TABLE])
    assert not sight.unfinished, f"{after}, a journal is left open: the next start undoes it"
    if sight.exists:
        async with backend.lock([TABLE], FREE_S, silent):
            pass


def same(found: Contents, expected: Contents, what: str) -> None:
    """Fails with the checksum of every table on either side."""
    assert found == expected, (
        f"{what}: there is {checksums(found)}, and there should be {checksums(expected)}"
    )


def _postgres_url(fixture: Callable[[str], Any]) -> str:
    try:
        return str(fixture("postgres_url"))
    except pytest.FixtureLookupError:
        pytest.skip(f"no PostgreSQL: set {POSTGRES_VARIABLE}, or define a fixture postgres_url")
