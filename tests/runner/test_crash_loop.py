"""Starts that fail or die at the same revisions: counted, and after so many left alone."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool
from support import postgres_server as _postgres
from support.notes_application import BROKEN, GOOD, HALF_WAY, NOTES, ROWS, UNIQUE
from support.raced_application import Raced, outcomes

from automigrator import (
    ConfigurationError,
    Decision,
    Failure,
    MigrationError,
    Migrator,
    RefusedError,
    Run,
    Target,
    TargetReport,
    hookimpl,
)
from automigrator.backends.contract.record import Record
from automigrator.runner.records import crash_loop

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.long(
        "postgresql",
        "recovery1",
        "six_processes",
        "cancelled_start_is_not_counted",
        "many_that_die",
    ),
]

DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
DIES_HALF_WAY = HALF_WAY.replace(BROKEN, f"    {GOOD}\n{DIES}")
FILLED = (
    "CREATE TABLE lines (text VARCHAR(200), other INTEGER)",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
    "INSERT INTO lines SELECT hex(randomblob(90)), i FROM n",
)
WRONG_INDEX = (
    "CREATE INDEX wrong ON lines (text)",
    "PRAGMA writable_schema = ON",
    "UPDATE sqlite_master SET sql = 'CREATE INDEX wrong ON lines (other)' WHERE name = 'wrong'",
)
"""Damage that `PRAGMA quick_check` does not see, and a DELETE does."""
NO_DUPLICATES = "DELETE FROM notes WHERE id = 2"


@pytest.fixture
def device(tmp_path: Path, database_url: str) -> Raced:
    """An application with notes in its database, on both databases."""
    return Raced(tmp_path, database_url)


async def boot(
    device: Raced, *recovery: Any, limit: int = 2, plugins: Any = (), **options: Any
) -> TargetReport:
    """One start in this process, failed or not."""
    own = {"retry_timeout": options.pop("retry_timeout")} if "retry_timeout" in options else {}
    migrator = Migrator(
        device.target(**own),
        mode="migrate",
        recovery=recovery,
        plugins=plugins,
        max_failed_starts=limit,
        **options,
    )
    try:
        return (await migrator.run()).targets[0]
    except MigrationError as error:
        return error.report.targets[0]


def tried(report: TargetReport) -> bool:
    return report.attempts > 0


def snapshots(device: Raced, server: _postgres.Server | None) -> list[str]:
    """The copies of the device's database that there are."""
    if device.is_postgres:
        assert server is not None
        return server.databases(f"{make_url(device.url).database}_")
    return sorted(path.name for path in device.root.glob("*.snapshot-*"))


class Told:
    """Keeps the failures it is asked about and the events it hears."""

    def __init__(self, answer: Decision | None = None) -> None:
        self.answer = answer
        self.asked: list[Failure] = []
        self.events: list[Any] = []

    @hookimpl
    def on_failure(self, failure: Failure) -> Decision | None:
        self.asked.append(failure)
        return self.answer

    @hookimpl
    def on_event(self, event: Any) -> None:
        self.events.append(event)


@pytest.mark.parametrize("recovery", [[], [("backup-restore", {"snapshot": "always"})]])
def test_a_device_that_dies_at_every_boot_is_not_touched_after_so_many(
    device: Raced, recovery: list[Any], request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("postgres_server") if device.is_postgres else None
    device.traced(DIES)
    start = device.start_of(*recovery, max_failed_starts=3)
    for number in (1, 2, 3):
        (dead,) = device.together(start, 1)
        assert (dead.outcome, len(device.trace)) == ("killed", number)
    copies = snapshots(device, server)
    for _ in range(2):
        (stopped,) = device.together(start, 1)
        assert (stopped.error, len(device.trace)) == ("MigrationError", 3)
        assert stopped.report is not None and stopped.report["failed_starts"] == 3
        assert "3 starts in a row have failed at these revisions since " in stopped.text
        assert "the last one died while it migrated" in stopped.text
        assert "await migrator.clear()" in stopped.text
    assert snapshots(device, server) == copies
    kept = 3 if device.is_postgres else 1  # a SQLite copy that is the same takes the other's place
    assert len(copies) == (kept if recovery else 0)
    assert (device.heads, device.notes()) == ({"r1"}, ROWS)


def test_a_start_that_tries_nothing_undoes_the_work_of_a_dead_leader(
    device: Raced,
) -> None:
    device.traced(DIES_HALF_WAY)
    start = device.start_of("backup-restore", "log-and-continue", max_failed_starts=1)
    assert outcomes(device.together(start, 1)) == {"killed": 1}
    for _ in range(2):  # the second has nothing to undo, and knows that it is clean
        (stopped,) = device.together(start, 1)
        assert stopped.outcome == "degraded", stopped
        assert stopped.report is not None
        assert stopped.report["failures"][0]["state"] == "clean"
        assert (device.heads, device.notes()) == ({"r1"}, ROWS)
    assert len(device.trace) == 1


class Peeking:
    """Looks at what is written down when the hooks are called that take a snapshot."""

    record: Record | None = None

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        assert run.hold is not None
        self.record = await run.hold.last()


async def test_a_start_is_written_down_before_anything_is_done(device: Raced) -> None:
    device.traced(GOOD)
    peeking = Peeking()
    await boot(device, plugins=[peeking])
    assert peeking.record is not None
    assert (peeking.record.outcome, peeking.record.starts.count) == ("begun", 1)


def test_each_of_many_that_die_one_after_the_other_counts_and_the_rest_is_spared(
    device: Raced,
) -> None:
    device.traced(DIES)
    ended = device.together(device.start_of(max_failed_starts=4), 6)
    assert outcomes(ended) == {"failed": 2, "killed": 4}
    assert len(device.trace) == 4


def test_of_six_processes_that_fail_together_one_is_counted(device: Raced) -> None:
    device.traced("import time; time.sleep(0.7)\n" + BROKEN)
    ended = device.together(device.start_of(), 6)
    assert outcomes(ended) == {"failed": 6}
    assert {each.report["failed_starts"] for each in ended if each.report} == {1}
    (again,) = device.together(device.start_of(), 1)
    assert again.report is not None and again.report["failed_starts"] == 2
    assert len(device.trace) == 2


@pytest.mark.long
async def test_the_log_the_report_and_an_event_say_what_was_not_tried_and_what_to_do(
    device: Raced, caplog: pytest.LogCaptureFixture
) -> None:
    device.traced(BROKEN)
    told = Told()
    for number in (1, 2):
        report = await boot(device, "purge", "log-and-continue")
        assert (report.outcome, report.failed_starts) == ("degraded", number)
    assert "failed starts in a row at these revisions: 2" in str(report)
    caplog.clear()
    before = device.trace
    report = await boot(device, "purge", "log-and-continue", plugins=[told])
    assert (report.outcome, report.attempts, report.failed_starts) == ("degraded", 0, 2)
    assert report.before == report.after == ("r1",)
    (failure,) = report.failures
    assert (failure.kind, failure.revision, failure.state) == ("revision", "r2", "clean")
    for said in (
        "2 starts in a row have failed at these revisions since 20",
        "no snapshot, no migration, no purge and no restore",
        "the last failure: revision r2: ",
        "absent",
    ):
        assert said in failure.message
    assert "await migrator.clear()" in failure.advice and "tries once more" in failure.advice
    assert "not tried: revision in revision r2" in str(report)
    (event,) = (each for each in told.events if each.name == "crash-loop")
    (record,) = (
        r for r in caplog.records if r.name == "automigrator" and r.levelno == logging.CRITICAL
    )
    assert failure.message in record.getMessage()
    assert vars(record)["automigrator"] == event.to_log()
    assert (event.data["failed_starts"], event.data["outcome"]) == (2, "degraded")
    assert device.trace == before
    assert (device.heads, device.notes()) == ({"r1"}, ROWS)


@pytest.mark.long("recovery2")
@pytest.mark.parametrize(
    ("last_resort", "recovery", "outcome"),
    [
        ("ask", ["purge"], "failed"),
        ("ask", ["log-and-continue"], "degraded"),
        ("ask", [("backup-restore", {"then": "continue"})], "degraded"),
        ("abort", ["log-and-continue"], "failed"),
        ("continue", [], "degraded"),
    ],
)
async def test_the_last_resort_is_what_was_configured(
    device: Raced, last_resort: Any, recovery: list[Any], outcome: str
) -> None:
    device.traced(BROKEN)
    assert tried(await boot(device, *recovery, limit=1))
    report = await boot(device, *recovery, limit=1, last_resort=last_resort)
    assert (report.outcome, tried(report)) == (outcome, False)


async def test_a_target_has_a_limit_and_a_last_resort_of_its_own(device: Raced) -> None:
    device.traced(BROKEN)
    for target in (
        device.target(max_failed_starts=0, last_resort="continue"),
        device.target(max_failed_starts=0),
        device.target(max_failed_starts=1, last_resort="continue"),
    ):
        with pytest.raises(MigrationError):
            await Migrator(target, mode="migrate").run()
    report = await Migrator(target, mode="migrate", max_failed_starts=9).run()
    assert (report.outcome, len(device.trace)) == ("degraded", 3)


async def test_a_partial_state_is_continued_on_only_when_that_is_allowed(device: Raced) -> None:
    device.traced(HALF_WAY)
    first = await boot(device, limit=1)
    assert first.failures[0].state == "partial-within-revision"
    for last_resort in ("continue", "ask"):
        options: dict[str, Any] = {"limit": 1, "last_resort": last_resort}
        refused = await boot(device, "backup-restore", "log-and-continue", **options)
        assert (refused.outcome, tried(refused)) == ("failed", False)
        assert any("allow_partial=True" in note for note in refused.notes)
        allowed = await boot(device, "log-and-continue", allow_partial=True, **options)
        assert (allowed.outcome, tried(allowed)) == ("degraded", False)


@pytest.mark.long
async def test_a_leader_that_died_half_way_through_a_revision_may_have_left_it_partial(
    device: Raced,
) -> None:
    device.traced(DIES_HALF_WAY)
    start = device.start_of(max_failed_starts=1)
    assert outcomes(await asyncio.to_thread(device.together, start, 1)) == {"killed": 1}
    report = await boot(device, limit=1, last_resort="continue")
    assert (report.outcome, report.failures[0].state) == ("failed", "partial-within-revision")


class Acting:
    """Tries everything when it is asked, and keeps what it is told."""

    effect = "reverting"

    def __init__(self) -> None:
        self.refused: list[str] = []

    @hookimpl
    async def on_failure(self, run: Run) -> Decision:
        for act in (run.snapshot(), run.restore(), run.prune_snapshots(1)):
            try:
                await act
            except RefusedError as error:
                self.refused.append(str(error))
        return Decision.RETRY


async def test_the_core_refuses_every_act_of_a_plugin_that_is_asked_for_the_last_resort(
    device: Raced,
) -> None:
    device.traced(BROKEN)
    await boot(device, limit=1)
    acting = Acting()
    report = await boot(device, acting, limit=1)
    assert (report.outcome, len(device.trace)) == ("failed", 1)
    assert len(acting.refused) == 3
    assert all("after too many failed starts; nothing was changed" in r for r in acting.refused)
    assert any("asked for another attempt" in note for note in report.notes)


class Refusing:
    """A backup of the application's own that cannot be made."""

    @hookimpl
    def before_migrate(self, run: Run) -> None:
        raise RefusedError("no room for a backup")


class Late(Refusing):
    """One that cannot be made when the strategy's own snapshot is there."""

    effect = "none"


async def test_a_start_that_was_refused_before_it_changed_anything_is_not_counted(
    device: Raced,
) -> None:
    device.traced(GOOD)
    for _ in range(4):
        report = await boot(device, limit=2, plugins=[Refusing()])
        assert (report.outcome, report.failures[-1].kind) == ("failed", "hook")
        assert tried(report) and report.failed_starts == 0
    assert (await boot(device, limit=2)).outcome == "migrated"


async def test_one_that_has_made_a_copy_is(device: Raced) -> None:
    """Else a device would fill its disk with copies."""
    device.traced(GOOD)
    recovery = [("backup-restore", {"snapshot": "always"}), Late()]
    for number in (1, 2):
        assert (await boot(device, *recovery, limit=2)).failed_starts == number
    assert not tried(await boot(device, *recovery, limit=2))


async def test_a_fixed_deployment_goes_through_at_once(device: Raced) -> None:
    device.traced(BROKEN)
    await boot(device, limit=1)
    assert not tried(await boot(device, limit=1))
    device.count -= 1
    device.deploy(GOOD)
    report = await boot(device, limit=1)
    assert (report.outcome, report.failed_starts) == ("migrated", 0)


async def test_clear_lets_the_next_start_try_again(device: Raced) -> None:
    device.traced(UNIQUE)
    await boot(device, limit=1)
    assert not tried(await boot(device, limit=1))
    device.execute(NO_DUPLICATES)
    await Migrator(device.target()).clear()
    assert (await boot(device, limit=1)).outcome == "migrated"


@pytest.mark.long
async def test_a_success_forgets_the_failures_before_it(device: Raced) -> None:
    device.traced(UNIQUE)
    assert (await boot(device)).failed_starts == 1
    device.execute(NO_DUPLICATES)
    assert (await boot(device)).outcome == "migrated"
    device.execute(
        "DROP INDEX one_of_each",
        f"INSERT INTO notes VALUES (2, '{NOTES[0]}')",
        "UPDATE alembic_version SET version_num = 'r1'",
    )
    assert (await boot(device)).failed_starts == 1


async def test_a_look_tells_how_many_have_failed_and_when_one_tries_again(
    device: Raced, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Migrator(device.target(), max_failed_starts=2)
    device.traced(BROKEN)
    assert (await looks.check())["app"].failed_starts == 0
    await boot(device)
    status = (await looks.check())["app"]
    assert (status.failed_starts, status.tries_again_at) == (1, None)
    first, last, statement, advice = str(status).splitlines()[1:]
    assert first == f"  1 start has failed at these revisions since {status.failing_since}"
    assert last.startswith("  the last failure: revision in revision r2: ")
    assert statement == "    statement: SELECT * FROM absent"
    assert advice.startswith("    what to do: ") and status.last_failure is not None
    assert advice.endswith(status.last_failure.advice)
    await boot(device)
    status = (await looks.check())["app"]
    assert (status.failed_starts, str(status).count("2 starts in a row have failed")) == (2, 1)
    assert f"no start tries anything before {status.tries_again_at}: " in str(status)
    assert "`await migrator.clear()`" in str(status)
    examined = str(await looks.doctor())
    assert str(status) in examined and examined.count("the last failure: ") == 1
    assert status.to_dict()["last_failure"]["statement"] == "SELECT * FROM absent"
    monkeypatch.setattr(crash_loop, "REST_S", 0.0)
    assert (await looks.check())["app"].tries_again_at is None
    monkeypatch.undo()
    await looks.clear()
    assert (await looks.check())["app"].failed_starts == 0


async def test_a_look_counts_no_start_that_is_under_way_and_none_of_other_revisions(
    device: Raced,
) -> None:
    seen: list[int] = []

    class Looks:
        @hookimpl
        async def before_migrate(self, run: Run) -> None:
            seen.append((await Migrator(device.target()).check())["app"].failed_starts)

    device.traced(BROKEN)
    await boot(device, plugins=[Looks()])
    await boot(device, plugins=[Looks()])
    assert seen == [0, 1]
    device.traced(GOOD)
    assert (await Migrator(device.target()).check())["app"].failed_starts == 0


async def test_a_start_long_after_the_last_tries_once_more(
    device: Raced, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.traced(BROKEN)
    await boot(device, limit=1)
    assert not tried(await boot(device, limit=1))
    monkeypatch.setattr(crash_loop, "REST_S", 0.0)
    again = await boot(device, limit=1)
    assert (tried(again), again.failed_starts) == (True, 2)
    assert any("it is tried once more" in note for note in again.notes)
    monkeypatch.undo()
    assert not tried(await boot(device, limit=1))


@pytest.fixture
def file_device(tmp_path: Path) -> Raced:
    """The same in a file, whose record lies beside it."""
    return Raced(tmp_path, f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")


def rewritten(device: Raced, **starts: float) -> None:
    """Make the record one of other times, as a clock that was wrong would have."""
    path = device.root / "app.db.automigrator-record.json"
    record = json.loads(path.read_text())
    record["at"] = starts.pop("at", record["at"])
    record["starts"].update(starts)
    path.write_text(json.dumps(record))


async def test_a_failure_from_before_the_clock_was_set_back_binds_nobody(
    file_device: Raced,
) -> None:
    file_device.traced(UNIQUE)
    await boot(file_device)
    rewritten(file_device, at=time.time() + 1e7)
    file_device.execute(NO_DUPLICATES)

    report = await boot(file_device)

    assert report.outcome == "migrated", report.notes


@pytest.mark.long
async def test_a_clock_that_was_set_back_does_not_end_the_tries_for_years(
    file_device: Raced,
) -> None:
    file_device.traced(BROKEN)
    await boot(file_device, limit=1)
    rewritten(file_device, at=0, last=time.time() + 1e7, since=time.time() + 1e7)

    again = await boot(file_device, limit=1)

    assert (tried(again), again.failed_starts) == (True, 2)
    assert not tried(await boot(file_device, limit=1))


async def test_a_limit_that_is_lowered_far_below_the_count_is_reached(file_device: Raced) -> None:
    file_device.traced(BROKEN)
    await boot(file_device)
    rewritten(file_device, count=100)

    assert not tried(await boot(file_device, limit=1))


@pytest.mark.long("damage1", "damage2")
@pytest.mark.parametrize("damage", [{"count": math.inf}, {"last": math.inf}, {"since": math.nan}])
async def test_a_record_that_is_damaged_counts_for_nothing(
    file_device: Raced, damage: dict[str, float]
) -> None:
    file_device.traced(UNIQUE)
    await boot(file_device)
    rewritten(file_device, **{"count": 9, **damage})
    file_device.execute(NO_DUPLICATES)

    assert (await boot(file_device)).outcome == "migrated"


def test_each_try_after_the_limit_doubles_the_rest() -> None:
    starts = crash_loop.FailedStarts
    rests = [crash_loop.tries_again_at(starts(n, 0, 0), 5) / 3600 for n in (5, 6, 7)]
    assert rests == [24, 48, 96]
    for count in (10, 11, 99, 2**63):
        assert crash_loop.tries_again_at(starts(count, 0, 0), 5) == 32 * 24 * 3600


async def cancelled(device: Raced, lines: int) -> None:
    """A start that is cancelled inside the revision, which is slow while there is a flag."""
    (device.root / "slow").touch()
    run = asyncio.create_task(boot(device))
    await asyncio.to_thread(device.await_trace, lines)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    (device.root / "slow").unlink()


async def test_a_cancelled_start_is_not_counted_and_leaves_the_count_of_those_before_it(
    device: Raced,
) -> None:
    flag = str(device.root / "slow")
    device.traced(f"if os.path.exists({flag!r}):\n    {device.slow(3)}\n{BROKEN}")
    await cancelled(device, 1)
    report = await boot(device)
    assert (tried(report), report.failed_starts) == (True, 1)
    await cancelled(device, 3)
    report = await boot(device)
    assert (tried(report), report.failed_starts) == (True, 2)
    assert not tried(await boot(device))


@contextmanager
def in_the_way(device: Raced) -> Iterator[None]:
    """Somebody else has locked what the revision wants to change."""
    if not device.is_postgres:
        flag = device.root / "locked"
        flag.touch()
        yield
        flag.unlink()
        return
    loop = asyncio.new_event_loop()
    dsn = make_url(device.url).set(drivername="postgresql").render_as_string(hide_password=False)
    other = loop.run_until_complete(asyncpg.connect(dsn))
    loop.run_until_complete(other.execute("BEGIN; LOCK TABLE notes"))
    try:
        yield
    finally:
        loop.run_until_complete(other.close())
        loop.close()


def test_a_failure_that_says_nothing_about_the_revisions_is_not_counted(device: Raced) -> None:
    if device.is_postgres:
        patience = "op.execute(\"SET LOCAL lock_timeout = '100ms'\")"
    else:
        file, flag = make_url(device.url).database, str(device.root / "locked")
        patience = (
            f"import sqlite3\n{GOOD}\nif os.path.exists({flag!r}):\n"
            f"    sqlite3.connect({file!r}, timeout=0.1).execute('BEGIN IMMEDIATE')"
        )
    device.traced(f"{patience}\n{UNIQUE}")
    assert asyncio.run(boot(device)).failed_starts == 1
    with in_the_way(device):
        for _ in range(3):
            report = asyncio.run(boot(device, retry_timeout=0))
            assert [failure.kind for failure in report.failures] == ["lock-timeout"]
            assert report.failed_starts == 1
    assert asyncio.run(boot(device)).failed_starts == 2


@pytest.mark.long
async def test_where_no_record_can_be_kept_the_report_says_that_starts_are_not_counted(
    device: Raced, request: pytest.FixtureRequest
) -> None:
    device.traced(BROKEN)
    if device.is_postgres:
        # a schema of that name that is somebody else's: no right to it
        server: _postgres.Server = request.getfixturevalue("postgres_server")
        role, name = f"{make_url(device.url).database}_role", str(make_url(device.url).database)
        server.execute(f"CREATE ROLE {role} LOGIN")
        server.execute(f"GRANT CREATE ON SCHEMA public TO {role}", database=name)
        server.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}", database=name)
        request.addfinalizer(lambda: _drop_role(server, role, name))
        url = make_url(device.url).set(username=role).render_as_string(hide_password=False)
    else:
        url = device.url
        (device.root / "app.db.automigrator-record.json").mkdir()
    migrator = Migrator(Target(url, device.config), mode="migrate", max_failed_starts=1)
    for number in (1, 2):
        with pytest.raises(MigrationError) as info:
            await migrator.run()
        (report,) = info.value.report.targets
        assert any("failed starts are not counted here" in note for note in report.notes)
        assert (report.failed_starts, len(device.trace)) == (0, number)


def _drop_role(server: _postgres.Server, role: str, database: str) -> None:
    server.execute(f"DROP OWNED BY {role}", database=database)
    server.execute(f"DROP ROLE {role}")


@pytest.mark.long
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_purge_of_a_damaged_file_that_fails_at_every_boot_is_counted_too(
    device: Raced,
) -> None:
    device.traced(BROKEN)
    file = Path(str(make_url(device.url).database))
    file.write_bytes(b"no database at all " * 300)
    then = ("log-and-continue", {"corrupt": True})
    for _ in range(2):
        report = asyncio.run(boot(device, "purge", then))
        assert [failure.kind for failure in report.failures] == ["corrupt"]
        assert tried(report)
    assert len(device.trace) == 2
    report = asyncio.run(boot(device, "purge", then))
    assert (report.outcome, tried(report), len(device.trace)) == ("degraded", False, 2)
    assert file.read_bytes() == b"no database at all " * 300


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_sound_copy_in_the_place_of_a_damaged_file_ends_the_count(device: Raced) -> None:
    device.execute(*FILLED)
    device.traced(GOOD)
    always = ("backup-restore", {"snapshot": "always"})
    file = Path(str(make_url(device.url).database))
    sound = file.read_bytes()
    file.write_bytes(sound[:16384] + b"\x5a" * (len(sound) - 16384))
    for number in (1, 2):
        report = asyncio.run(boot(device, always, limit=2))
        assert (report.failures[-1].kind, report.failed_starts) == ("corrupt", number)
    stopped = asyncio.run(boot(device, always, limit=2))
    assert not tried(stopped)
    assert "The next start looks at the file" in stopped.failures[-1].advice
    status = asyncio.run(Migrator(device.target(), max_failed_starts=2).check()).targets[0]
    assert status.tries_again_at is not None
    file.write_bytes(sound)  # as `cp` does: the same inode
    status = asyncio.run(Migrator(device.target(), max_failed_starts=2).check()).targets[0]
    assert status.tries_again_at is None
    report = asyncio.run(boot(device, always, limit=2))
    assert report.outcome == "migrated", report
    assert any("the damage is gone" in note for note in report.notes)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_damage_that_no_look_finds_does_not_end_the_count(device: Raced) -> None:
    """Else a device would try at every boot: the file always seems sound."""
    device.execute(*FILLED, *WRONG_INDEX)
    device.traced("op.execute(\"DELETE FROM lines WHERE text > 'A'\")")
    assert (await boot(device, limit=1)).failures[-1].kind == "corrupt"
    assert not tried(await boot(device, limit=1))


@pytest.mark.long
async def test_a_database_in_memory_has_nothing_to_remember(tmp_path: Path) -> None:
    url = "sqlite+aiosqlite:///:memory:"
    device = Raced(tmp_path, url, started=False)
    device.traced(BROKEN)
    engine = create_async_engine(url, poolclass=StaticPool)
    migrator = Migrator(Target(engine, device.config), mode="migrate", max_failed_starts=1)
    for _ in range(3):
        with pytest.raises(MigrationError) as info:
            await migrator.run()
        assert info.value.report.targets[0].failed_starts == 0
    await engine.dispose()
    assert len(device.trace) == 3


@pytest.mark.parametrize("limit", [-1, True, 1.5, "3", None])
def test_a_limit_that_is_none_is_refused(device: Raced, limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="0 counts none"):
        Migrator(device.target(), max_failed_starts=limit)
    if limit is not None:
        with pytest.raises(ConfigurationError, match="0 counts none"):
            device.target(max_failed_starts=limit)


def test_a_last_resort_that_is_none_is_refused(device: Raced) -> None:
    wrong: Any = "pray"
    with pytest.raises(ConfigurationError, match="'ask', 'abort', 'continue'"):
        Migrator(device.target(), last_resort=wrong)
    with pytest.raises(ConfigurationError, match="'ask', 'abort', 'continue'"):
        device.target(last_resort=wrong)


HELPED = "import {}\n{}.upgrade()"
BY_HELPER = "import sqlalchemy as sa\nfrom alembic import op\n\ndef upgrade():\n    {}\n"


@pytest.mark.long
async def test_a_deployment_that_repairs_an_imported_helper_only_is_another_one(
    device: Raced,
) -> None:
    name = f"helper_{device.root.name}_{device.is_postgres:d}"
    inner = f"inner_{name}"

    def deploy(helper: str) -> None:
        sys.modules.pop(name, None)
        sys.modules.pop(inner, None)
        importlib.invalidate_caches()
        (device.root / f"{name}.py").write_text(f"from {inner} import upgrade\n", "utf-8")
        (device.root / f"{inner}.py").write_text(BY_HELPER.format(helper), "utf-8")

    deploy(BROKEN)
    device.deploy(HELPED.format(name, name))
    for number in (1, 2, 3):
        with pytest.raises(MigrationError) as caught:
            await Migrator(device.target(), mode="migrate", max_failed_starts=2).run()
        report = caught.value.report.targets[0]
        assert (report.failed_starts, report.attempts) == (min(number, 2), int(number < 3))
    deploy(GOOD)
    report = await Migrator(device.target(), mode="migrate", max_failed_starts=2).run()
    assert report.outcome == "migrated"
