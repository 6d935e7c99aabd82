"""Every failure is of its kind, says what to do, and tells no row and no password; see docs."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import tempfile
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import cache
from pathlib import Path

import pytest
from support import postgres_server
from support.canaries import printed
from support.failure_scene import PASSWORD, ROW, Scene
from support.failure_situations import SITUATIONS, Situation
from support.table import Row, Table

from automigrator import Event, Failure, MigrationError, Migrator, Run, Target, hookimpl
from automigrator.hooks.effects import Effect, may_act
from automigrator.runner.records.crash_loop import EXCUSED

pytestmark = pytest.mark.long(
    "session-has-locked-asyncpg",
    "a-standby",
    "a-serialization",
    "a-deadlock",
    "cut-inside-a-revision",
    "that-raises-asyncpg",
    "starting-up-asyncpg",
    "right-that-the-revision-lacks",
    "has-committed-asyncpg",
    "is-full-asyncpg",
    "too-long-asyncpg",
    "may-not-read",
    "rehearsal-without",
    "new-type-asyncpg",
)

TABLE = Table(
    "failures.md",
    "pytest tests/runner/test_failure_table.py --write-table",
    (
        "what happened",
        "database",
        "kind",
        "tried again",
        "state",
        "may act",
        "what it says",
        "what to do",
    ),
)
SAYS = TABLE.headings.index("what it says")


def marks(each: Situation, driver: str) -> list[pytest.MarkDecorator]:
    """One driver is enough where the server has no word in it, and where rows are in the way."""
    rows = each.says.startswith(("existing ", "NOT NULL", "a table that is "))
    alike = "aiosqlite" in each.drivers and (rows or "psycopg" not in each.drivers)
    return [pytest.mark.long] if driver == "psycopg" or (alike and driver == "asyncpg") else []


CASES = [
    pytest.param(each, driver, id=f"{each}-{driver}", marks=marks(each, driver))
    for each in SITUATIONS
    for driver in each.drivers
]
LONG_S = 60.0


class Probe:
    """A strategy of one effect that notes whether it was asked, and passes."""

    def __init__(self, effect: Effect) -> None:
        self.effect = effect
        self.may_act = False

    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> None:
        self.may_act = run.locked and may_act(self.effect, failure)


@pytest.fixture(scope="module")
def own_server() -> Iterator[object]:
    """Started by the first test that needs it."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(postgres_server.stoppable())[0])


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, str], Row]:
    return {}


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.long(
    "a-damaged-page-asyncpg",
    "may-not-create-the-version-table",
    "may-only-read",
    "rows-that-refer",
    "no-more-connections",
    "another-database-aio",
    "value-that-a-revision's-code",
    "fails-after-another",
    "newer-code-has",
    "there-already-aio",
    "folder-where",
    "writes-to-aio",
    "opened-to-be-read-only",
    "rehearsal-aio",
    "after-itself",
    "whose-import-fails",
    "may-not-connect",
    "the-missing-database-asyncpg",
)
@pytest.mark.parametrize(("each", "driver"), CASES)
async def test_a_failure_is_as_the_table_says(
    each: Situation,
    driver: str,
    own_server: object,
    stack: AsyncExitStack,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    results: dict[tuple[str, str], Row],
    request: pytest.FixtureRequest,
) -> None:
    scene = Scene(tmp_path, driver, own_server, stack)  # type: ignore[arg-type]  # a fixture
    if each.transient:
        scene.options["retry_timeout"] = 0
    made = each.provoke(scene)
    target = await made if inspect.isawaitable(made) else made
    probes = [Probe("discarding"), Probe("reverting"), Probe("none")]
    migrator = Migrator(target, mode="migrate", recovery=probes, plugins=scene.plugins)
    stream = migrator.events()

    with caplog.at_level(logging.DEBUG, "automigrator"), pytest.raises(MigrationError) as caught:
        await migrator.run()

    events = [event async for event in stream]
    error = caught.value
    (failure,) = error.report.targets[0].failures
    assert failure.kind == each.kind
    assert failure.kind not in EXCUSED or not error.report.targets[0].failed_starts
    assert_told_whole(failure, target, error)
    assert_nothing_leaked(error, events, caplog)
    if each.transient:
        await assert_retried(target, scene)
    tried = "yes: `Timeouts(retry=)`" if each.transient else waited(events)
    acting = [probe.effect for probe in probes if probe.may_act]
    row = (
        each.says,
        "SQLite" if driver == "aiosqlite" else "PostgreSQL",
        f"`{failure.kind}`",
        tried,
        f"`{failure.state}`",
        ", ".join(acting) or "nothing",
        as_everywhere(failure.message, scene, target),
        as_everywhere(failure.advice, scene, target),
    )
    first = results.setdefault(row[:2], row)
    assert without_words(row) == without_words(first), "the other driver tells it otherwise"
    if not request.config.getoption("--write-table"):
        documented = [without_words(cells(line)) for line in TABLE.read().splitlines()]
        assert without_words(row) in documented, f"run `{TABLE.command}`"


def assert_told_whole(failure: Failure, target: Target, error: MigrationError) -> None:
    """What happened, on which database, where, in which state, and what to do: once each."""
    told = str(error)
    assert told.count(f"database: {target.url}") == 1
    assert str(error.report).count(f"database: {target.url}") == 1
    assert told.count("state: ") == 1 and failure.state in told
    assert failure.message and "\n" not in failure.message
    assert failure.advice and told.count("what to do: ") == 1
    if failure.kind == "revision":
        assert failure.revision in ("r2", "r3")


def assert_nothing_leaked(
    error: MigrationError, events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    told = [
        repr(error),
        "".join(traceback.format_exception(error)),
        printed(error),
        f"{error.report} {error.report!r} {error.report.to_dict()}",
        *(f"{event} {event!r} {event.to_dict()}" for event in events),
        *(f"{record.getMessage()} {record.__dict__}" for record in caplog.records),
    ]
    assert [text for text in told if ROW in text or PASSWORD in text] == []


async def assert_retried(target: Target, scene: Scene) -> None:
    patient = Migrator(
        Target(target.database, target.config, retry_timeout=LONG_S, drive=target.drive),
        mode="migrate",
    )
    stream = patient.events()
    running = asyncio.create_task(patient.run())
    async with asyncio.timeout(LONG_S):
        async for event in stream:
            if event.name == "retrying":
                break
    assert not running.done(), running.exception()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def waited(events: list[Event]) -> str:
    """What was waited for before it failed."""
    assert "retrying" not in {event.name for event in events}
    for event in events:
        if event.name == "waiting":
            limit = "lock" if "lock" in event.data["what"] else "connect"
            return f"waited for: `Timeouts({limit}=)`"
    return "no"


_ELSEWHERE = (
    (rf"{tempfile.gettempdir()}/automigrator-[\w-]+", "…"),
    (r"\brole_[0-9a-f]{8}\b", "somebody"),
    (r"(base|pg_tblspc)/[\w/]+", r"\1/…"),
    (r"(?<=127\.0\.0\.1)(:|', )\d+", r"\1…"),
    (r"(?<=process )\d+ on \S+ since [\d:]+ UTC", "… on … since …"),
    (r"(?<=session )\d+ \([^)]*\)", "… (automigrator, from …, since …)"),
    (r"\.py:\d+", ".py:…"),
)
"""What differs from run to run and from machine to machine."""


def as_everywhere(text: str, scene: Scene, target: Target) -> str:
    """Without what differs from run to run."""
    for word, stands in (
        (str(scene.root), "…"),
        (scene.name, "app"),
        ("|", "\\|"),
    ):
        text = text.replace(word, stands)
    for pattern, stands in _ELSEWHERE:
        text = re.sub(pattern, stands, text)
    return text


def cells(line: str) -> Row:
    return tuple(re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")))


def without_words(row: Row) -> Row:
    """The servers' and drivers' own words change with their versions."""
    return row[:SAYS] + row[SAYS + 1 :]


def test_the_document_holds_every_situation(
    request: pytest.FixtureRequest, results: dict[tuple[str, str], Row]
) -> None:
    if request.config.getoption("--write-table"):
        TABLE.write([results[key] for key in sorted_keys(results)])
    documented = {cells(line)[:2] for line in TABLE.read().splitlines()[2:]}
    assert documented == set(sorted_keys(None)), f"run `{TABLE.command}`"


def sorted_keys(results: dict[tuple[str, str], Row] | None) -> list[tuple[str, str]]:
    names = {"aiosqlite": "SQLite", "asyncpg": "PostgreSQL", "psycopg": "PostgreSQL"}
    keys = [(each.says, names[driver]) for each in SITUATIONS for driver in each.drivers]
    return [key for key in dict.fromkeys(keys) if results is None or key in results]
