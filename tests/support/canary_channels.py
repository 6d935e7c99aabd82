"""A pytest plugin: no log, error, report, event, span, record or output holds a canary."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import logging
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.canaries import WATCH, printed

from automigrator import failure, migrator, operations, report, status, target
from automigrator.backends.contract import declarations, record
from automigrator.backends.postgresql import journal as records
from automigrator.backends.sqlite import journal
from automigrator.events import notifier
from automigrator.events.event import Event
from automigrator.fleet import fleet, ledger
from automigrator.fleet import operations as fleet_operations
from automigrator.fleet import report as fleet_report
from automigrator.fleet import status as fleet_status
from automigrator.frozen import Frozen
from automigrator.hooks import context
from automigrator.runner.operations import checkup

LOGGERS = ("automigrator", "alembic", "asyncio", "py.warnings", "concurrent.futures")
FACES = (
    (migrator.Migrator, ["run", "__init__"]),
    (operations.Operations, ["check", "plan", "doctor", "rollback", "clear"]),
    (context.Run, ["snapshot", "restore", "recreate_database"]),
    (target.Target, ["__init__"]),
    (fleet.Fleet, ["run", "__init__", "bring"]),
    (fleet_operations.Operations, ["check", "plan", "status"]),
)
"""Whence an application or a plugin gets errors."""
REPORTS = (report, status, failure, checkup, record, declarations, records, journal)
REPORTS += (fleet_report, fleet_status, ledger)
"""Whose dataclasses are shown to people and machines, or written for the next start."""
_DATA = (b"SQLite format 3\x00", b"PGDMP")
_LARGE = 4_000_000
_USUAL = frozenset(vars(logging.makeLogRecord({})))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "leaks(channel): tells a canary there, and is to be caught")
    watch_logs()
    watch_events()
    for module in REPORTS:
        for cls in vars(module).values():
            known = dataclasses.is_dataclass(cls) or (
                inspect.isclass(cls) and issubclass(cls, Frozen)
            )
            if known and cls.__module__ == module.__name__:
                watch_reports(cls)
    for cls, names in FACES:
        for name in names:
            watch_errors(cls, name)
    watch_processes()
    _after(warnings.WarningMessage, "__init__", lambda it, _: WATCH.look("warning", it.message))
    _after(pytest.CaptureFixture, "readouterr", lambda _, read: WATCH.look("output", *read))


def pytest_collection_finish(session: pytest.Session) -> None:
    if "opentelemetry.sdk" in sys.modules:
        watch_telemetry()
    if "automigrator.prometheus" in sys.modules:
        metrics = sys.modules["automigrator.prometheus"].Metrics
        _after(metrics, "answer", lambda _, told: WATCH.look("metric", told[0].decode(), told[1]))


# The verdict


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """Fail what leaked; a test that is marked `leaks` must."""
    told = yield
    for title, text in told.sections:
        if title.startswith(("Captured stdout", "Captured stderr")):
            WATCH.look("output", text)
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if told.when == "call" and isinstance(folder, Path):
        for file in written(folder):
            WATCH.look("file", file.name, file.read_text("utf-8", "replace"))
    found = WATCH.leaked()
    expected = item.get_closest_marker("leaks")
    if expected is not None:
        wrong = told.when == "call" and {channel for channel, _ in found} != set(expected.args)
    else:
        wrong = bool(found)
    if wrong and not told.failed:
        lines = [f"{channel}: {text}" for channel, text in found] or ["nothing"]
        told.outcome = "failed"
        told.longrepr = "\n".join([f"what leaked by {item.nodeid} ({told.when}):", *lines])
    return told


def written(folder: Path) -> Iterator[Path]:
    """What automigrator writes beside a database, data apart, and what processes log."""
    for path in folder.rglob("*"):
        if not (path.suffix == ".log" or "automigrator" in path.name) or path.is_symlink():
            continue
        if path.name.endswith(("-wal", "-shm", "-journal")) or not path.is_file():
            continue
        if path.stat().st_size > _LARGE:
            continue
        with path.open("rb") as file:
            if not file.read(16).startswith(_DATA):
                yield path


# The channels


def watch_logs() -> None:
    """Every record of ours, also those of modules that nobody has asked for."""
    is_enabled, handle = logging.Logger.isEnabledFor, logging.Logger.handle

    def enabled(self: logging.Logger, level: int) -> bool:
        # but for the logger of events, which are watched apart
        return is_enabled(self, level) or self.name.startswith(("automigrator.", "automigrator_"))

    def handled(self: logging.Logger, record: logging.LogRecord) -> None:
        if record.name.startswith(LOGGERS):
            WATCH.look("log", *of_record(record))
        if is_enabled(self, record.levelno):
            handle(self, record)

    logging.Logger.isEnabledFor = enabled  # type: ignore[method-assign]
    logging.Logger.handle = handled  # type: ignore[method-assign]


def of_record(record: logging.LogRecord) -> Iterator[str]:
    extra = {key: value for key, value in vars(record).items() if key not in _USUAL}
    yield f"{record.getMessage()} {record.args!r} {extra}"
    if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
        yield printed(record.exc_info[1])


def watch_events() -> None:
    """Every event, listened to or not, and what the log says of it."""
    tell = notifier.Notifier.__call__

    @functools.wraps(tell)
    def watched(
        self: Any, name: str, target: str | None = None, /, *, told: object = None, **data: Any
    ) -> None:
        WATCH.look("event", Event(name, target, data).to_log(), told or "")
        tell(self, name, target, told=told, **data)

    notifier.Notifier.__call__ = watched  # type: ignore[method-assign]


def watch_reports(cls: type) -> None:
    def made(self: Any, _: object) -> None:
        as_dict = self.to_dict() if hasattr(self, "to_dict") else ""
        shown = self if cls.__str__ is not object.__str__ else ""  # else it is the repr
        WATCH.look("report", shown, repr(self), as_dict)

    _after(cls, "__init__", made)


def watch_errors(cls: type, name: str) -> None:
    """What a method raises."""
    method = getattr(cls, name)

    def watched(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        except BaseException as error:
            WATCH.look("error", printed(error))
            raise

    async def awaited(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return await method(self, *args, **options)
        except BaseException as error:
            WATCH.look("error", printed(error))
            raise

    wanted = awaited if inspect.iscoroutinefunction(method) else watched
    setattr(cls, name, functools.wraps(method)(wanted))


def watch_processes() -> None:
    """What anybody may read of the processes that ours starts, and what the tests' own say."""
    start = asyncio.create_subprocess_exec

    @functools.wraps(start)
    async def started(*command: Any, **options: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__", "").startswith("automigrator"):
            WATCH.look("command line", *command)
        return await start(*command, **options)

    asyncio.create_subprocess_exec = started
    _after(subprocess.Popen, "communicate", lambda _, said: WATCH.look("output", *said))


def watch_telemetry() -> None:
    from opentelemetry.sdk import metrics, trace

    def ended(span: Any, _: object) -> None:
        told = [(event.name, event.attributes) for event in span.events]
        attributes = {**(span.attributes or {})}
        WATCH.look("span", span.name, attributes, span.status.description, *told)

    _after(trace.Span, "end", ended)
    for cls, name in (
        (metrics.Counter, "add"),
        (metrics.Histogram, "record"),
        (metrics._Gauge, "set"),
    ):
        _before(cls, name, lambda *given: WATCH.look("metric", *map(str, given)))


def _after(cls: type, name: str, look: Callable[[Any, Any], None]) -> None:
    method = getattr(cls, name)

    @functools.wraps(method)
    def watched(self: Any, *args: Any, **options: Any) -> Any:
        result = method(self, *args, **options)
        look(self, result)
        return result

    setattr(cls, name, watched)


def _before(cls: type, name: str, look: Callable[..., None]) -> None:
    method = getattr(cls, name)

    @functools.wraps(method)
    def watched(self: Any, *args: Any, **options: Any) -> Any:
        look(*args, options)
        return method(self, *args, **options)

    setattr(cls, name, watched)


# The count


_TOTAL: Counter[str] = Counter()


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["canaries"] = dict(WATCH.checked)
    else:
        _TOTAL.update(WATCH.checked)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended."""
    _TOTAL.update(getattr(node, "workeroutput", {}).get("canaries", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _TOTAL:
        said = ", ".join(f"{count:,} of {channel}" for channel, count in sorted(_TOTAL.items()))
        terminalreporter.write_line(f"looked for canaries in {said}")
