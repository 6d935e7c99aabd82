"""What a run tells: to listeners, and to the log for machines; every step ends."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import make_url
from support.acting_strategies import Rebuilding, Restoring
from support.alembic_projects import linear
from support.notes_application import GOOD, HALF_WAY, UNIQUE, Application

from automigrator import (
    Decision,
    Event,
    FollowTimeoutError,
    MigrationError,
    Migrator,
    PendingError,
    Run,
    Target,
    hookimpl,
)
from automigrator.events import event as event_module
from automigrator.events.catalogue import CATALOGUE
from automigrator.events.lock_wait import progress_of
from automigrator.events.notifier import Notifier
from automigrator.events.stream import Subscription
from automigrator.hooks.registry import Hooks

pytestmark = pytest.mark.long("postgresql", "comes_up_late")

Make = Callable[..., Target]


class Json(logging.Handler):
    """Keeps what a formatter for machines would write."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        told = getattr(record, "automigrator", None)
        self.lines.append(
            json.dumps({"logger": record.name, "level": record.levelname, "automigrator": told})
        )

    def told(self) -> list[dict[str, Any]]:
        """What the records of events carried."""
        lines = [json.loads(line) for line in self.lines]
        return [line["automigrator"] for line in lines if line["automigrator"] is not None]


@contextmanager
def logged(level: int) -> Iterator[Json]:
    logger, handler = logging.getLogger("automigrator"), Json()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield handler
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


class Listening:
    def __init__(self) -> None:
        self.events: list[Event] = []

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def data(self, name: str) -> dict[str, Any]:
        """Of the one event of this name."""
        (event,) = [event for event in self.events if event.name == name]
        return dict(event.data)


class Raising:
    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        raise OSError("no space left")


async def started(
    application: Application, listening: Listening, *recovery: object, **options: Any
) -> None:
    migrator = Migrator(
        application.target(), mode="migrate", recovery=recovery, plugins=[listening], **options
    )
    await migrator.run()


def unended(events: Sequence[Event]) -> list[str]:
    """What began and has no end; a target's end and a run's end all that is in them."""
    opened: list[str] = []
    for event in events:
        ends = CATALOGUE[event.name].ends
        if event.name in ("target-finished", "run-finished"):
            del opened[opened.index(ends[0]) :]
            continue
        opened = [name for name in opened if name not in ends]
        if event.name.endswith("-started") or event.name == "waiting":
            opened.append(event.name)
    return opened


def without_target_end(events: Sequence[Event]) -> list[Event]:
    return [each for each in events if each.name not in ("target-finished", "run-finished")]


async def test_the_log_of_a_run_is_its_events_for_a_machine(notes: Application) -> None:
    notes.deploy(GOOD)
    listening = Listening()
    with logged(logging.DEBUG) as handler:
        await started(notes, listening)
    assert handler.told() == [event.to_log() for event in listening.events]
    names = [told["event"] for told in handler.told()]
    assert names[:2] == ["run-started", "target-started"]
    done = handler.told()[names.index("revision-done")]
    assert (done["target"], done["revision"]) == (notes.target().name, "r2")
    assert {json.loads(line)["logger"] for line in handler.lines if "r2" in line} == {
        "automigrator"
    }


@pytest.mark.long
async def test_the_log_holds_what_its_level_lets_through(notes: Application) -> None:
    notes.deploy(GOOD, HALF_WAY)
    listening = Listening()
    with logged(logging.ERROR) as handler, pytest.raises(MigrationError):
        await started(notes, listening)
    assert [told["event"] for told in handler.told()] == ["failed", "run-finished"]
    assert handler.told()[0]["kind"] == "revision"
    assert "attempt-started" in listening.names


async def test_a_migration_tells_of_every_step_in_order(notes: Application) -> None:
    notes.deploy(GOOD)
    listening = Listening()
    await started(notes, listening)
    assert listening.names == [
        "run-started",
        "target-started",
        "locked",
        "planned",
        "attempt-started",
        "revision-started",
        "revision-done",
        "attempt-finished",
        "target-finished",
        "run-finished",
    ]
    assert listening.data("run-finished") == {
        "outcome": "migrated",
        "error": None,
        "targets": {notes.target().name: "migrated"},
        "seconds": listening.data("run-finished")["seconds"],
    }


async def test_what_is_pending_is_told_by_its_names_before_it_runs(notes: Application) -> None:
    notes.deploy(GOOD)
    listening = Listening()
    await started(notes, listening)
    r2 = {"revision": "r2", "down_revision": ["r1"], "doc": "r2"}
    assert listening.data("planned") == {"revisions": [r2]}


def test_what_nobody_is_told_needs_no_data() -> None:
    nobody, somebody = Notifier([], Hooks([], [])), Notifier([Subscription()], Hooks([], []))
    assert not nobody.wanted("planned") and somebody.wanted("planned")
    with logged(logging.DEBUG):
        assert nobody.wanted("planned")


@pytest.mark.parametrize(
    ("leader", "progress"),
    [
        ("process 4711 on web-1 since 12:00:01 UTC, at 3/7 r3", "3/7 r3"),
        ("PostgreSQL session 5 (role a, automigrator web-1:4711 3/7 r3, from ::1)", "3/7 r3"),
        ("process 4711 on web-1 since 12:00:01 UTC", ""),
        ("a/b 1/c, 1/2", ""),
    ],
)
def test_how_far_a_leader_is_can_be_read_in_what_it_says(leader: str, progress: str) -> None:
    assert progress_of(leader) == progress


@pytest.mark.long
async def test_a_restore_tells_of_the_snapshot_the_failure_and_the_decision(
    notes: Application,
) -> None:
    notes.deploy(HALF_WAY)
    listening = Listening()
    with pytest.raises(MigrationError):
        await started(notes, listening, Restoring(Decision.ABORT))
    # a note says where PostgreSQL keeps what was replaced
    aside = ("run-", "target-", "note")
    told = [name for name in listening.names if not name.startswith(aside)]
    assert told == [
        "locked",
        "planned",
        "hook-started",
        "snapshot-started",
        "snapshot-taken",
        "hook-finished",
        "attempt-started",
        "revision-started",
        "failed",
        "attempt-finished",
        "hook-started",
        "restore-started",
        "restored",
        "hook-finished",
        "decided",
    ]
    assert unended(without_target_end(listening.events)) == ["run-started", "target-started"]
    place = listening.data("snapshot-taken")["place"]
    assert listening.data("restored")["place"] == place
    assert listening.data("run-finished")["error"] == "MigrationError"


@pytest.mark.long
async def test_a_rebuilt_database_tells_of_the_revisions_that_built_it(notes: Application) -> None:
    notes.deploy(UNIQUE)
    listening = Listening()
    await started(notes, listening, Rebuilding())
    names = listening.names
    first, last = names.index("recreate-started"), names.index("recreated")
    assert names[first + 1 : last] == ["revision-started", "revision-done"] * 2
    assert unended(without_target_end(listening.events)) == ["run-started", "target-started"]


async def test_a_hook_that_raises_and_a_failure_that_nobody_answers_are_told(
    notes: Application,
) -> None:
    notes.deploy(GOOD)
    listening = Listening()
    with pytest.raises(MigrationError):
        await Migrator(notes.target(), mode="migrate", plugins=[Raising(), listening]).run()
    failed = listening.data("hook-failed")
    assert (failed["hook"], failed["plugin"]) == ("before_migrate", "Raising")
    assert "no space left" in failed["message"]
    assert listening.data("failed")["kind"] == "hook"
    assert listening.names[-3:] == ["passed", "target-finished", "run-finished"]


@pytest.mark.long
async def test_an_absent_database_is_created_between_two_events(
    make_target: Make, postgres_name: str, postgres_server: Any
) -> None:
    listening = Listening()
    target = make_target(database=postgres_server.url(postgres_name))
    await Migrator(target, mode="migrate", plugins=[listening]).run()
    at = listening.names.index("create-started")
    assert listening.names[at + 1] == "created"
    assert listening.data("created")["ours"] is True


async def test_a_cancelled_run_ends_all_that_it_began(notes: Application) -> None:
    notes.deploy('op.run_async(lambda connection: __import__("asyncio").sleep(30))')
    listening = Listening()
    running: list[asyncio.Task[None]] = []

    class Cancelling:
        @hookimpl
        def on_event(self, event: Event) -> None:
            if event.name == "revision-started":
                running[0].cancel()

    running.append(
        asyncio.create_task(
            Migrator(  # type: ignore[arg-type]  # its report is not looked at
                notes.target(),
                mode="migrate",
                recovery=[Restoring(Decision.ABORT)],
                plugins=[listening, Cancelling()],
            ).run()
        )
    )
    with pytest.raises(asyncio.CancelledError):
        await running[0]
    assert "failed" not in listening.names
    assert listening.data("attempt-finished")["outcome"] == "cancelled"
    assert listening.data("target-finished")["outcome"] == "cancelled"
    assert listening.data("run-finished")["outcome"] == "cancelled"
    assert unended(listening.events) == []
    taken_back = [name for name in listening.names if name.startswith("repair")]
    assert taken_back == ["repair-started", "repaired"]


async def test_a_server_that_comes_up_late_is_waited_for_and_reached(
    make_target: Make, postgres_url: str
) -> None:
    real = make_url(postgres_url)
    assert real.host and real.port
    placeholder = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = placeholder.sockets[0].getsockname()[1]
    placeholder.close()
    await placeholder.wait_closed()
    up = asyncio.Event()

    class Waiting:
        @hookimpl
        def on_event(self, event: Event) -> None:
            if event.name == "waiting":
                up.set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(real.host, real.port)

        async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                to.write(data)
            to.close()

        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    listening = Listening()
    target = make_target(database=real.set(host="127.0.0.1", port=port))
    migrator = Migrator(target, mode="migrate", plugins=[listening, Waiting()])
    running = asyncio.create_task(migrator.run())
    await asyncio.wait_for(up.wait(), 30)
    server = await asyncio.start_server(relay, "127.0.0.1", port)
    report = await running
    server.close()
    assert report.outcome == "migrated"
    names = [name for name in listening.names if name in ("waiting", "reached", "locked")]
    assert names[0] == "waiting" and names[-2:] == ["reached", "locked"]
    assert listening.data("reached")["waited_s"] > 0


@pytest.mark.long
async def test_a_rollback_tells_of_itself_to_plugins(notes: Application) -> None:
    notes.deploy(GOOD)
    await started(notes, Listening())
    listening = Listening()
    await Migrator(notes.target(), plugins=[listening]).rollback("r1")
    assert listening.names == [
        "rollback-started",
        "locked",
        "revision-started",
        "revision-done",
        "rollback-finished",
    ]
    finished = listening.data("rollback-finished")
    assert (finished["outcome"], finished["reverted"]) == ("reverted", ["r2"])


async def test_a_rollback_that_fails_tells_why(notes: Application) -> None:
    listening = Listening()
    with pytest.raises(MigrationError):
        await Migrator(notes.target(), plugins=[listening]).rollback("absent")
    assert listening.names == ["rollback-started", "failed", "rollback-finished"]
    assert listening.data("rollback-finished")["outcome"] == "failed"


async def test_a_run_in_every_mode_tells_its_beginning_and_its_end(
    make_target: Make, sqlite_url: str
) -> None:
    target = make_target(linear, database=sqlite_url, lock_timeout=0.5)
    for mode, error in (("check", PendingError), ("wait", FollowTimeoutError)):
        listening = Listening()
        with pytest.raises(error):
            await Migrator(target, mode=mode, plugins=[listening]).run()  # type: ignore[arg-type]
        assert listening.data("run-started") == {"mode": mode, "targets": [target.name]}
        assert listening.data("run-finished")["error"] == error.__name__
        assert ("waiting" in listening.names) == (mode == "wait")
    listening = Listening()
    await Migrator(target, mode="skip", plugins=[listening]).run()
    assert listening.names == ["skipped"]


async def test_the_events_of_a_run_have_an_id_in_common(notes: Application) -> None:
    listening = Listening()
    migrator = Migrator(notes.target(), mode="migrate", plugins=[listening])
    await asyncio.gather(migrator.run(), migrator.run())
    runs = [event.run for event in listening.events]
    assert sorted(map(runs.count, set(runs))) == [4, 4]


def test_where_nobody_listens_no_event_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unwanted:
        def __init__(self, *_: object, **__: object) -> None:
            raise AssertionError("nobody listens")

    subscriptions: list[Subscription] = []
    tell = Notifier(subscriptions, Hooks([], []))
    with logged(logging.WARNING), monkeypatch.context() as patched:
        patched.setattr(event_module, "Event", Unwanted)
        tell("stamped", "app", revision="r1")
    subscription = Subscription(1)
    subscriptions.append(subscription)
    with logged(logging.WARNING):
        tell("stamped", "app", revision="r1")
    assert subscription._queue[0].name == "stamped"
