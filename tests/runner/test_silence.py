"""A PostgreSQL server that falls silent at any step ends the run, which says what it waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import heads, linear, query, revision
from support.blackhole import Cable, cable
from support.leaders import leading

from automigrator import Decision, Event, Failure, MigrationError, Migrator, Run, Target, hookimpl
from automigrator.backends.postgresql import watchdog

Make = Callable[..., Target]

SILENT_S = 1.0
LIMIT_S = 60.0
"""Each question has its second; a loaded machine is given more."""


SECONDS = ("hook", "snapshot", "attempt-started", "revision", "bootstrap", "restore", "[failed")
pytestmark = pytest.mark.long(
    *SECONDS, "end_of_a_run", "a_commit_counts", "backend", "gives_up_too", "run-started"
)


@dataclass(frozen=True)
class Step:
    """Where the network falls silent, and how the run ends then."""

    event: str
    says: str
    kind: str = "unreachable"
    body: str = "pass"
    copies: bool = False
    bootstrap: Callable[[Connection], Any] | None = None


def waits(connection: Connection) -> None:
    connection.execute(text("SELECT pg_sleep(60)"))


SLOW = 'op.execute("SELECT pg_sleep(60)")'
STEPS = [
    Step("run-started", "no answer from the database within 1 s"),
    Step("locked", "this run was asking env.py how the database stands"),
    Step("hook-started", "this run was looking for what lies about already"),
    Step("snapshot-started", "this run was in before_migrate of Freezes", copies=True),
    Step("attempt-started", "this run was running env.py"),
    Step("revision-started", "this run was running env.py", body=SLOW),
    Step("revision-done", "this run was running env.py", body=SLOW),
    Step("bootstrap-started", "this run was running bootstrap", bootstrap=waits),
    Step("failed", "LookupError: no luck", "revision", 'raise LookupError("no luck")'),
    Step("restore-started", "no luck", "revision", 'raise LookupError("no luck")', copies=True),
]
"""What was waited for in vain in the end is the failure's; for the last two, the report's notes."""


class Freezes:
    """Pulls the cable at an event, and may copy and restore."""

    effect = "reverting"

    def __init__(self, network: Cable, event: str, *, copies: bool = False) -> None:
        self.network, self.event, self.copies = network, event, copies

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        if self.copies:
            await run.snapshot()

    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        if self.copies and failure.state != "clean":
            await run.restore()
        return None

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.name == self.event:
            self.network.pull()


def through(url: str, network: Cable) -> str:
    led = make_url(url).set(host="127.0.0.1", port=network.port)
    return led.render_as_string(hide_password=False)


def third(body: str) -> Callable[[Path], None]:
    def revisions(folder: Path) -> None:
        linear(folder, 2)
        revision(folder, "r3", "r2", upgrade=body)

    return revisions


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "SILENT_S", SILENT_S)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.event)
async def test_a_run_ends_and_says_what_it_waited_for(
    step: Step, make_target: Make, postgres_url: str
) -> None:
    server = make_url(postgres_url)
    with cable(str(server.host), server.port or 5432) as network:
        target = make_target(
            third(step.body),
            kind="per_migration",
            database=through(postgres_url, network),
            connect_timeout=SILENT_S,
            retry_timeout=0,
            bootstrap=step.bootstrap,
        )
        plugin = Freezes(network, step.event, copies=step.copies)
        began = time.monotonic()
        with pytest.raises(MigrationError) as error:
            await asyncio.wait_for(
                Migrator(target, mode="migrate", plugins=[plugin]).run(), LIMIT_S * 2
            )
        print(f"{step.event}: {time.monotonic() - began:.1f} s: {error.value}")
    assert time.monotonic() - began < LIMIT_S
    failure = error.value.report.targets[0].failures[-1]
    assert failure.kind == step.kind
    assert step.says in failure.message
    if failure.kind == "unreachable":
        assert "no answer from the database within 1 s" in failure.message
    else:
        notes = " ".join(error.value.report.targets[0].notes)
        assert "no answer from the database server within 1 s to " in notes
    assert "r3" not in heads(postgres_url)


@pytest.mark.usefixtures("soon")
async def test_one_that_waits_for_the_lock_gives_up_too(
    make_target: Make, postgres_url: str
) -> None:
    server = make_url(postgres_url)
    async with leading(make_target(database=postgres_url)):
        with cable(str(server.host), server.port or 5432) as network:
            target = make_target(
                database=through(postgres_url, network), folder="led", connect_timeout=SILENT_S
            )
            late = Migrator(target, mode="migrate", plugins=[Freezes(network, "waiting")])
            with pytest.raises(MigrationError) as error:
                await asyncio.wait_for(late.run(), LIMIT_S)
    assert "within 1 s to the session of the migration lock" in str(error.value)


@pytest.mark.parametrize("how", ["cancelled", "run_timeout"])
async def test_the_end_of_a_run_does_not_wait_for_a_silent_server(
    how: str, make_target: Make, postgres_url: str
) -> None:
    server = make_url(postgres_url)
    with cable(str(server.host), server.port or 5432) as network:
        target = make_target(third(SLOW), database=through(postgres_url, network))
        migrator = Migrator(
            target,
            mode="migrate",
            plugins=[Freezes(network, "revision-started")],
            run_timeout=2.5 if how == "run_timeout" else None,
        )
        events = migrator.events()
        running = asyncio.create_task(migrator.run())
        began = time.monotonic()
        if how == "cancelled":
            async for event in events:
                if event.name == "revision-started":
                    break
            running.cancel()
        with pytest.raises((asyncio.CancelledError, MigrationError)) as error:
            await asyncio.wait_for(asyncio.shield(running), LIMIT_S)
        print(f"{how}: {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 40  # a silent server alone is given 60 s
    if isinstance(error.value, MigrationError):
        failure = error.value.report.targets[0].failures[-1]
        assert (failure.kind, failure.state) == ("timeout", "unknown")


@pytest.mark.usefixtures("soon")
async def test_a_commit_counts_as_migrated_even_if_the_server_says_no_more(
    make_target: Make, postgres_url: str
) -> None:
    server = make_url(postgres_url)
    with cable(str(server.host), server.port or 5432) as network:
        engine = create_async_engine(through(postgres_url, network))
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))  # one lies idle in the pool
        target = make_target(database=engine, connect_timeout=SILENT_S)
        plugin = Freezes(network, "attempt-finished")
        migrator = Migrator(target, mode="migrate", plugins=[plugin])
        report = await asyncio.wait_for(migrator.run(), LIMIT_S)
        await engine.dispose(close=False)
    assert report.outcome == "migrated" and heads(postgres_url) == {"r3"}


BACKENDS = {
    "lock": "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted",
    "revision": "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%'",
}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("whose", "kind", "says"),
    [
        ("lock", "lock-timeout", "no longer answered by the server"),
        ("revision", "timeout", "ran for longer than Timeouts(revision=1)"),
    ],
)
async def test_a_backend_of_the_server_that_is_stopped_ends_the_run(
    whose: str, kind: str, says: str, make_target: Make, postgres_url: str
) -> None:
    limits = {"revision_timeout": 1} if whose == "revision" else {}
    target = make_target(third(SLOW), database=postgres_url, connect_timeout=5, **limits)
    migrator = Migrator(target, mode="migrate")
    running = asyncio.create_task(migrator.run())
    pids: set[int] = set()
    try:
        while not query(postgres_url, BACKENDS["revision"]):  # noqa: ASYNC110 - a server
            await asyncio.sleep(0.05)
        pids |= {row[0] for row in query(postgres_url, BACKENDS[whose])}
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(MigrationError) as error:
            await asyncio.wait_for(running, LIMIT_S)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    failure = error.value.report.targets[0].failures[-1]
    assert len(pids) == 1 and failure.kind == kind and says in failure.message
