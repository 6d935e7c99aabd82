"""A run's spans and metrics, read back from the SDK's in-memory exporters."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from support.acting_strategies import Rebuilding, Restoring
from support.listened_runs import cancel_in_a_revision
from support.notes_application import GOOD, HALF_WAY, UNIQUE, Application
from support.telemetry import Telemetry, start

from automigrator import Event, MigrationError, Migrator, Run, hookimpl

pytestmark = pytest.mark.long(
    "postgresql",
    "attempt_that_is_made_again",
    "rebuilt_database",
    "rollback_is_a_trace",
    "runs_at_once",
)

SLEEP = 'op.run_async(lambda connection: __import__("asyncio").sleep(30))'


async def test_a_migration_is_a_tree_of_spans_below_the_one_that_is_current(
    notes: Application, telemetry: Telemetry
) -> None:
    notes.deploy(GOOD, "pass")
    with telemetry.tracers.get_tracer("application").start_as_current_span("startup") as startup:
        await start(notes, plugins=[telemetry.plugin])
        assert not startup.is_recording() or startup.attributes == {}  # type: ignore[attr-defined]
    assert telemetry.tree() == [
        "startup",
        "  run",
        "    target",
        "      attempt",
        "        revision",
        "        revision",
    ]
    assert telemetry.opened.spans == set()
    revisions = [span.attributes["automigrator.revision"] for span in telemetry.named("revision")]
    assert revisions == ["r2", "r3"]
    (run,), (target,) = telemetry.named("run"), telemetry.named("target")
    assert run.attributes["automigrator.outcome"] == "migrated"
    assert target.attributes["automigrator.after"] == ("r3",)
    assert all(span.status.status_code is StatusCode.UNSET for span in telemetry.spans)


async def test_a_span_says_which_database_it_is_about(
    notes: Application, telemetry: Telemetry
) -> None:
    notes.deploy(GOOD)
    target = notes.target()
    await start(notes, plugins=[telemetry.plugin])
    (span,) = telemetry.named("target")
    url = target.application_url
    assert span.attributes["db.system.name"] == url.get_backend_name()
    assert span.attributes["db.namespace"] == url.database
    assert span.attributes.get("server.address") == url.host
    assert span.attributes.get("server.port") == url.port
    assert span.attributes["automigrator.target"] == target.name


async def test_spans_lie_within_their_parents(notes: Application, telemetry: Telemetry) -> None:
    notes.deploy(GOOD, HALF_WAY)
    with pytest.raises(MigrationError):
        await start(notes, plugins=[telemetry.plugin])
    spans = {span.context.span_id: span for span in telemetry.spans}
    for span in spans.values():
        assert span.start_time <= span.end_time
        if span.parent is not None:
            parent = spans[span.parent.span_id]
            assert parent.start_time <= span.start_time and span.end_time <= parent.end_time


async def test_a_start_with_nothing_to_do_is_two_spans_and_one_run(
    notes: Application, telemetry: Telemetry
) -> None:
    await start(notes, plugins=[telemetry.plugin])
    assert telemetry.tree() == ["run", "  target"]
    outcome = {"automigrator.outcome": "current", "automigrator.mode": "migrate"}
    assert telemetry.points("runs") == [(outcome, 1)]
    assert telemetry.points("run.duration") == [(outcome, 1)]
    assert [value for _, value in telemetry.points("pending")] == [0]


async def test_a_failure_a_snapshot_and_a_restore_are_spans_with_their_errors(
    notes: Application, telemetry: Telemetry
) -> None:
    notes.deploy(HALF_WAY)
    report = await start(notes, Restoring(), plugins=[telemetry.plugin], allow_partial=True)
    assert report.outcome == "degraded"
    assert telemetry.tree() == [
        "run!",
        "  target!",
        "    hook",
        "      snapshot",
        "    attempt!",
        "      revision!",
        "    hook",
        "      restore",
    ]
    for name in ("target", "attempt", "revision"):
        (span,) = telemetry.named(name)
        assert span.attributes["error.type"] == "revision"
        assert span.status.description
    (target,) = telemetry.named("target")
    told = {event.name: dict(event.attributes or {}) for event in target.events}
    assert told["automigrator.failed"]["automigrator.state"] == "partial-within-revision"
    assert told["automigrator.decided"]["automigrator.decision"] == "continue"
    system = {"db.system.name": notes.target().application_url.get_backend_name()}
    assert telemetry.points("failures") == [({**system, "error.type": "revision"}, 1)]
    assert telemetry.points("snapshot.duration") == [(system, 1)]
    assert telemetry.points("recovery.duration") == [({**system, "automigrator.act": "restore"}, 1)]
    assert [value for _, value in telemetry.points("pending")] == [1]


async def test_a_rebuilt_database_is_a_span_over_the_revisions_that_built_it(
    notes: Application, telemetry: Telemetry
) -> None:
    notes.deploy(UNIQUE)
    report = await start(notes, Rebuilding(), plugins=[telemetry.plugin])
    assert report.outcome == "recovered"
    tree = telemetry.tree()
    at = tree.index("      recreate")
    assert tree[at : at + 3] == ["      recreate", "        revision", "        revision"]
    (recreate,) = telemetry.named("recreate")
    assert recreate.attributes["automigrator.aside"]
    assert [value for _, value in telemetry.points("pending")] == [0]


async def test_a_rehearsal_is_a_span_over_the_revisions_that_ran_on_the_copy(
    notes: Application, telemetry: Telemetry
) -> None:
    notes.deploy(GOOD)
    migrator = Migrator(notes.target(), mode="migrate", plugins=[telemetry.plugin], rehearse=True)
    await migrator.run()
    tree = telemetry.tree()
    at = tree.index("    rehearsal")
    assert tree[at:] == ["    rehearsal", "      revision", "    attempt", "      revision"]
    system = {"db.system.name": notes.target().application_url.get_backend_name()}
    assert telemetry.points("rehearsal.duration") == [(system, 1)]


@pytest.mark.long
async def test_a_failed_rehearsal_is_a_span_with_its_error(
    notes: Application, telemetry: Telemetry
) -> None:
    notes.deploy(UNIQUE)
    migrator = Migrator(notes.target(), mode="migrate", plugins=[telemetry.plugin], rehearse=True)
    with pytest.raises(MigrationError):
        await migrator.run()
    (rehearsal,) = telemetry.named("rehearsal")
    assert rehearsal.status.status_code is StatusCode.ERROR
    assert telemetry.points("rehearsal.duration")[0][0]["error.type"] == "IntegrityError"
    assert [value for _, value in telemetry.points("pending")] == [1]


async def test_a_cancelled_run_leaves_no_span_open_and_is_no_error(
    notes: Application, telemetry: Telemetry
) -> None:
    notes.deploy(SLEEP)
    migrator = Migrator(notes.target(), mode="migrate", plugins=[telemetry.plugin])
    await cancel_in_a_revision(migrator)
    assert telemetry.tree() == ["run", "  target", "    attempt", "      revision"]
    assert telemetry.opened.spans == set()
    (run,) = telemetry.named("run")
    assert run.attributes["automigrator.outcome"] == "cancelled"
    assert [said["automigrator.outcome"] for said, _ in telemetry.points("runs")] == ["cancelled"]


async def test_waiting_for_the_lock_is_a_span(notes: Application, telemetry: Telemetry) -> None:
    held, waited = asyncio.Event(), asyncio.Event()

    class Holding:
        @hookimpl
        async def before_migrate(self, run: Run) -> None:
            held.set()
            await waited.wait()

    class Watching:
        @hookimpl
        def on_event(self, event: Event) -> None:
            if event.name == "waiting":
                waited.set()

    notes.deploy(GOOD)
    leader = asyncio.create_task(notes.start(plugins=[Holding()]))
    await held.wait()
    await Migrator(notes.target(), mode="migrate", plugins=[telemetry.plugin, Watching()]).run()
    await leader
    assert telemetry.tree() == ["run", "  target", "    wait"]
    (wait,) = telemetry.named("wait")
    assert wait.attributes["automigrator.on"] == "lock"
    (point,) = telemetry.points("wait.duration")
    assert point[0]["automigrator.on"] == "lock"
    ((attributes, waits),) = telemetry.points("waits")
    assert (attributes["automigrator.found"], waits) == ("current", 1)


async def test_a_rollback_is_a_trace_of_its_own(notes: Application, telemetry: Telemetry) -> None:
    notes.deploy(GOOD)
    await notes.start()
    migrator = Migrator(notes.target(), plugins=[telemetry.plugin])
    await migrator.rollback("r1")
    assert telemetry.tree() == ["rollback", "  revision"]
    assert telemetry.opened.spans == set()
    with pytest.raises(MigrationError):
        await migrator.rollback("absent")
    assert telemetry.tree()[-1] == "rollback!"
    assert telemetry.opened.spans == set()


async def test_runs_at_once_on_one_loop_and_in_threads_do_not_mix(
    tmp_path: Path, telemetry: Telemetry
) -> None:
    applications = [
        Application(tmp_path / str(n), f"sqlite+aiosqlite:///{tmp_path / str(n) / 'app.db'}")
        for n in range(4)
    ]
    for application in applications:
        application.deploy(GOOD)
    here, there = applications[:2], applications[2:]
    await asyncio.gather(
        *(start(each, plugins=[telemetry.plugin]) for each in here),
        *(
            asyncio.to_thread(asyncio.run, start(each, plugins=[telemetry.plugin]))
            for each in there
        ),
    )
    assert telemetry.opened.spans == set()
    traces: dict[int, list[ReadableSpan]] = {}
    for span in telemetry.spans:
        traces.setdefault(span.context.trace_id, []).append(span)
    assert len(traces) == 4
    databases = set()
    for spans in traces.values():
        assert sorted(span.name.removeprefix("automigrator.") for span in spans) == [
            "attempt",
            "revision",
            "run",
            "target",
        ]
        assert len({span.attributes["automigrator.run"] for span in spans}) == 1
        databases |= {
            span.attributes["db.namespace"] for span in spans if "db.namespace" in span.attributes
        }
    assert len(databases) == 4
    assert not telemetry.plugin._runs


async def test_no_parameter_no_statement_and_no_password_is_exported(
    notes: Application, telemetry: Telemetry
) -> None:
    statement = "sa.text(\"INSERT INTO absent VALUES (:x, 'literal-canary')\")"
    notes.deploy(f'op.get_bind().execute({statement}, {{"x": "value-canary"}})')
    url = notes.target().application_url
    if url.host:
        url = url.set(username=url.username or "postgres", password="password-canary")
    notes.url = url.render_as_string(hide_password=False)
    with pytest.raises(MigrationError):
        await start(notes, plugins=[telemetry.plugin])
    exported = "".join(span.to_json() for span in telemetry.spans)
    data = telemetry.reader.get_metrics_data()
    assert data is not None
    exported += data.to_json()
    assert "automigrator.failed" in exported
    assert "canary" not in exported


async def test_an_attempt_that_is_made_again_is_a_span_that_failed_and_another(
    tmp_path: Path, postgres_url: str, telemetry: Telemetry
) -> None:
    retried = asyncio.Event()

    class Watching:
        @hookimpl
        def on_event(self, event: Event) -> None:
            if event.name == "retrying":
                retried.set()

    application = Application(tmp_path, postgres_url)
    application.deploy('op.alter_column("notes", "text", type_=sa.Text())')
    engine = create_async_engine(postgres_url)
    async with engine.connect() as reader:
        await reader.execute(text("SELECT * FROM notes"))
        running = asyncio.create_task(start(application, plugins=[Watching(), telemetry.plugin]))
        await retried.wait()
        await reader.rollback()
        report = await running
    await engine.dispose()
    assert report.outcome == "migrated"
    *failed, last, revision = telemetry.tree()[2:]
    assert [each.strip() for each in failed] == ["attempt!", "revision!"] * (len(failed) // 2)
    assert failed and [last.strip(), revision.strip()] == ["attempt", "revision"]
    assert telemetry.named("attempt")[0].attributes["error.type"] == "lock-timeout"
    assert telemetry.points("failures") == []
