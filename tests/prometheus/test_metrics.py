"""The metrics of real runs, as a scrape reads them."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter
from support.acting_strategies import Rebuilding, Restoring
from support.exposition import Scraped, samples
from support.leaders import leading
from support.listened_runs import Recording, cancel_in_a_revision, with_losses
from support.notes_application import BROKEN, GOOD, HALF_WAY, UNIQUE, Application

from automigrator import (
    ConfigurationError,
    Event,
    FollowTimeoutError,
    MigrationError,
    Migrator,
    PendingError,
    Report,
    Target,
    Timeouts,
    hookimpl,
)
from automigrator.events.catalogue import CATALOGUE
from automigrator.prometheus import Metrics
from automigrator.prometheus.instruments import INSTRUMENTS
from automigrator.prometheus.recorder import OUTCOMES


@pytest.fixture
def notes(tmp_path: Path, sqlite_url: str) -> Application:
    """An application that has started once, with notes in its database."""
    return Application(tmp_path, sqlite_url)


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


async def start(notes: Application, *plugins: object, **options: Any) -> Report:
    migrator = Migrator(
        notes.target(),
        mode="migrate",
        plugins=plugins,
        **options,
    )
    return await migrator.run()


class TestRuns:
    async def test_a_migration_is_counted_and_timed(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy(GOOD, "pass")
        began = time.time()
        await start(notes, scraped.metrics)
        assert scraped.value("runs_total", outcome="migrated") == 1
        assert scraped.outcome() == ["migrated"]
        assert scraped.value("run_duration_seconds_count") == 1
        assert scraped.value("revision_duration_seconds_count") == 2
        assert scraped.value("wait_duration_seconds_count", on="lock") == 1
        assert scraped.value("pending_revisions", target="app") == 0
        ended = scraped.value("last_run_timestamp_seconds")
        assert ended is not None and began <= ended <= time.time()

    async def test_a_start_with_nothing_to_do_is_a_run(
        self, notes: Application, scraped: Scraped
    ) -> None:
        await start(notes, scraped.metrics)
        assert scraped.value("runs_total", outcome="current") == 1
        assert scraped.outcome() == ["current"]
        assert scraped.value("pending_revisions", target="app") == 0
        assert scraped.value("revision_duration_seconds_count") == 0

    async def test_what_is_under_way_is_shown_and_then_no_more(
        self, notes: Application, scraped: Scraped
    ) -> None:
        seen: list[tuple[float | None, ...]] = []
        under_way = "run_started_timestamp_seconds", "run_revisions", "run_revisions_done"

        class Looking:
            @hookimpl
            def on_event(self, event: Event) -> None:
                if event.name == "revision-started":
                    seen.append(tuple(map(scraped.value, under_way)))

        notes.deploy(GOOD, "pass")
        began = time.time()
        await start(notes, scraped.metrics, Looking())
        assert [each[1:] for each in seen] == [(2, 0), (2, 1)]
        assert all(each[0] is not None and began <= each[0] <= time.time() for each in seen)
        assert [scraped.value(name) for name in under_way] == [0, 0, 0]

    async def test_a_failure_names_its_kind_and_what_is_pending_stays(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy(GOOD, BROKEN)
        with pytest.raises(MigrationError):
            await start(notes, scraped.metrics)
        assert scraped.value("failures_total", target="app", kind="revision") == 1
        assert scraped.value("runs_total", outcome="failed") == 1
        assert scraped.outcome() == ["failed"]
        assert scraped.value("pending_revisions", target="app") == 2

    async def test_the_next_run_takes_the_outcome_of_the_last_one_away(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy(UNIQUE)
        with pytest.raises(MigrationError):
            await start(notes, scraped.metrics)
        notes.execute("DELETE FROM notes")
        await start(notes, scraped.metrics)
        assert scraped.outcome() == ["migrated"]
        assert len(scraped.labelled("last_run_outcome")) == len(OUTCOMES)

    async def test_a_run_that_is_refused_fails_for_each_of_its_targets(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy(GOOD)
        with pytest.raises(PendingError):
            await Migrator(notes.target(), mode="check", plugins=[scraped.metrics]).run()
        assert scraped.value("runs_total", outcome="failed") == 1
        assert scraped.outcome() == ["failed"]

    async def test_a_target_behind_one_that_failed_was_not_run(
        self, notes: Application, tmp_path: Path, scraped: Scraped
    ) -> None:
        notes.deploy(BROKEN)
        second = Target(f"sqlite+aiosqlite:///{tmp_path / 'second.db'}", notes.config)
        migrator = Migrator(notes.target(), second, mode="migrate", plugins=[scraped.metrics])
        with pytest.raises(MigrationError):
            await migrator.run()
        assert (scraped.outcome("app"), scraped.outcome("second")) == (["failed"], ["not-run"])

    async def test_a_run_that_nobody_asked_for_is_counted_as_skipped(
        self, notes: Application, scraped: Scraped
    ) -> None:
        both = [scraped.metrics, Metrics(scraped.registry)]
        await Migrator(notes.target(), mode="skip", plugins=both).run()
        assert scraped.labelled("runs_total", 1) == [{"outcome": "skipped"}]
        assert scraped.labelled("last_run_outcome") == []

    async def test_a_cancelled_run_leaves_nothing_under_way(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy('op.run_async(lambda connection: __import__("asyncio").sleep(30))')
        migrator = Migrator(notes.target(), mode="migrate", plugins=[scraped.metrics])
        await cancel_in_a_revision(migrator)
        assert scraped.outcome() == ["cancelled"]
        assert scraped.value("run_started_timestamp_seconds") == 0
        assert scraped.value("pending_revisions", target="app") == 1

    async def test_a_rollback_is_no_run(self, notes: Application, scraped: Scraped) -> None:
        notes.deploy(GOOD)
        await notes.start()
        await Migrator(notes.target(), plugins=[scraped.metrics]).rollback("r1")
        assert scraped.labelled("runs_total") == scraped.labelled("last_run_outcome") == []
        assert scraped.value("run_started_timestamp_seconds") == 0

    async def test_a_rehearsal_is_timed_by_its_result(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy(GOOD)
        await start(notes, scraped.metrics, rehearse=True)
        notes.deploy(UNIQUE)
        with pytest.raises(MigrationError):
            await start(notes, scraped.metrics, rehearse=True)
        for result in ("passed", "failed"):
            assert scraped.value("rehearsal_duration_seconds_count", result=result) == 1


class TestWaits:
    def test_nobody_waits_before_the_first_run(self, scraped: Scraped) -> None:
        told = scraped.labelled("waiting_seconds", 0)
        assert told == [{"on": "server"}, {"on": "lock"}, {"on": "leader"}]

    async def test_a_follower_says_how_long_it_waits_for_the_lock(
        self, notes: Application, scraped: Scraped
    ) -> None:
        waited = asyncio.Event()
        seen: list[float | None] = []

        class Looking:
            @hookimpl
            def on_event(self, event: Event) -> None:
                if event.name == "waiting" and event.data["seconds"] > 0:
                    seen.append(scraped.value("waiting_seconds", on="lock"))
                    waited.set()

        notes.deploy(GOOD)
        async with leading(notes.target()):
            following = asyncio.create_task(start(notes, scraped.metrics, Looking()))
            await waited.wait()
        await following
        assert seen[0] is not None and seen[0] > 0
        assert scraped.value("waiting_seconds", on="lock") == 0
        assert (scraped.value("wait_duration_seconds_sum", on="lock") or 0) >= seen[0]
        assert scraped.value("wait_duration_seconds_count", on="lock") == 1
        assert scraped.value("waits_total", on="lock", found="current") == 1
        assert scraped.outcome() == ["current"]

    async def test_a_lock_that_is_not_to_be_had_is_a_wait_that_is_over(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy(GOOD)
        async with leading(notes.target()):
            with pytest.raises(MigrationError):
                await start(notes, scraped.metrics, timeouts=Timeouts(lock=0.5))
        assert scraped.value("waits_total", on="lock", found="timeout") == 1
        assert scraped.value("wait_duration_seconds_count", on="lock") == 1

    @pytest.mark.parametrize("found", ["current", "timeout"])
    async def test_one_that_only_waits_says_how_long_and_how_it_ended(
        self, notes: Application, scraped: Scraped, found: str
    ) -> None:
        begun = asyncio.Event()

        class Looking:
            @hookimpl
            def on_event(self, event: Event) -> None:
                if event.name == "waiting":
                    begun.set()

        notes.deploy(GOOD)
        limits = Timeouts(lock=60 if found == "current" else 0.5)
        plugins = [scraped.metrics, Looking()]
        waits = Migrator(notes.target(), mode="wait", plugins=plugins, timeouts=limits)
        waiting = asyncio.create_task(waits.run())
        await begun.wait()
        if found == "current":
            await start(notes)
        with nullcontext() if found == "current" else pytest.raises(FollowTimeoutError):
            await waiting
        assert scraped.value("waits_total", on="leader", found=found) == 1
        assert scraped.value("wait_duration_seconds_count", on="leader") == 1


class TestRecoveries:
    async def test_a_rebuilt_database_is_counted_for_its_target(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy(UNIQUE)
        await start(notes, scraped.metrics, recovery=[Rebuilding()])
        assert scraped.value("recoveries_total", target="app", recovery="recreate") == 1
        assert scraped.value("recovery_duration_seconds_count", recovery="recreate") == 1
        assert scraped.outcome() == ["recovered"]
        assert scraped.value("pending_revisions", target="app") == 0

    async def test_a_restored_database_is_degraded_and_still_has_pending_revisions(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy(HALF_WAY)
        await start(notes, scraped.metrics, recovery=[Restoring()], allow_partial=True)
        assert scraped.value("recoveries_total", target="app", recovery="restore") == 1
        assert scraped.value("snapshot_duration_seconds_count") == 1
        assert scraped.outcome() == ["degraded"]
        assert scraped.value("pending_revisions", target="app") == 1

    async def test_a_start_that_tries_nothing_any_more_is_a_crash_loop(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy(BROKEN)
        for _ in range(2):
            assert scraped.labelled("crash_loops_total") == []
            with pytest.raises(MigrationError):
                await start(notes, scraped.metrics, max_failed_starts=1)
        assert scraped.value("crash_loops_total", target="app") == 1


class TestSeveralAtOnce:
    async def test_migrators_of_one_registry_share_its_instruments(
        self, notes: Application, tmp_path: Path, scraped: Scraped
    ) -> None:
        other = Application(tmp_path / "other", f"sqlite+aiosqlite:///{tmp_path / 'second.db'}")
        await start(notes, scraped.metrics)
        await start(other, Metrics(scraped.registry))
        assert scraped.value("runs_total", outcome="current") == 2
        assert (scraped.outcome("app"), scraped.outcome("second")) == (["current"], ["current"])

    async def test_a_run_that_two_are_told_of_counts_once(
        self, notes: Application, scraped: Scraped
    ) -> None:
        """Two plugins, and a gate that reads the events afterwards."""
        notes.deploy(BROKEN)
        gate, second = Metrics(scraped.registry), Metrics(scraped.registry)
        migrator = Migrator(notes.target(), mode="migrate", plugins=[scraped.metrics, second])
        events = migrator.events()
        with pytest.raises(MigrationError):
            await migrator.run()
        async for event in events:
            gate.follow(event)
        assert scraped.value("runs_total", outcome="failed") == 1
        assert scraped.value("failures_total", target="app", kind="revision") == 1
        assert scraped.value("run_started_timestamp_seconds") == 0

    async def test_registries_know_nothing_of_each_other(
        self, notes: Application, scraped: Scraped
    ) -> None:
        other = Scraped()
        await start(notes, scraped.metrics)
        assert scraped.value("runs_total", outcome="current") == 1
        assert other.labelled("runs_total") == []

    async def test_the_default_registry_has_the_applications_own_metrics(
        self, notes: Application
    ) -> None:
        own = Counter("shop_orders_total", "Orders of a shop")
        try:
            await start(notes, Metrics())
            body, _ = Metrics().answer()
        finally:
            REGISTRY.unregister(own)
        names = {name for name, _ in samples(body)}
        assert {"shop_orders_total", "automigrator_runs_total"} <= names

    async def test_runs_in_threads_are_all_counted(self, tmp_path: Path, scraped: Scraped) -> None:
        applications = [
            Application(tmp_path / f"{n}", f"sqlite+aiosqlite:///{tmp_path / f'{n}.db'}")
            for n in range(4)
        ]
        runs = [asyncio.to_thread(asyncio.run, start(a, scraped.metrics)) for a in applications]
        await asyncio.gather(*runs)
        assert scraped.value("runs_total", outcome="current") == 4
        assert scraped.value("run_started_timestamp_seconds") == 0


class TestNothingDisturbsARun:
    def test_an_event_that_is_not_known_changes_nothing(self, scraped: Scraped) -> None:
        before = scraped.samples()
        scraped.metrics.follow(Event("of-a-later-release", "app", {"seconds": 1}, run="one"))
        assert scraped.samples() == before

    def test_an_event_that_lacks_data_is_logged_once(
        self, scraped: Scraped, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in CATALOGUE:
            scraped.metrics.follow(Event(name, "app", {}, run=name.partition("-")[0]))
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert scraped.value("run_started_timestamp_seconds") == 0

    async def test_events_that_are_lost_or_out_of_order_leave_nothing_under_way(
        self, notes: Application
    ) -> None:
        """Whatever is lost between the first event and the last, 20 times at random."""
        recording = Recording()
        notes.deploy(GOOD, HALF_WAY)
        await start(notes, recording, recovery=[Restoring()], allow_partial=True)
        for told in with_losses(recording.events, 20):
            scraped = Scraped()
            for event in told:
                scraped.metrics.follow(event)
            assert not scraped.metrics._logged
            assert scraped.value("run_started_timestamp_seconds") == 0
            assert scraped.value("runs_total", outcome="degraded") == 1

    def test_without_the_client_library_the_extra_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in sys.modules if name.startswith("automigrator.prometheus")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        with pytest.raises(ConfigurationError, match=r"automigrator\[prometheus\]"):
            importlib.import_module("automigrator.prometheus")


class TestTheAnswer:
    def test_the_format_is_the_one_that_is_asked_for(self, scraped: Scraped) -> None:
        body, content_type = scraped.metrics.answer()
        assert content_type.startswith("text/plain")
        assert b"# TYPE automigrator_runs_total counter" in body
        asked = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.1"
        body, content_type = scraped.metrics.answer(asked)
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        assert body.endswith(b"# EOF\n")

    @pytest.mark.parametrize("version", ["abc", "1.0.0\r\nSet-Cookie: a=b", "2.<b>", "1.0.\udcff"])
    def test_a_request_that_makes_no_sense_gets_plain_text(
        self, version: str, scraped: Scraped
    ) -> None:
        accept = f"application/openmetrics-text;version={version}"
        _, content_type = scraped.metrics.answer(accept)
        assert content_type.startswith("text/plain")

    def test_samples_can_be_asked_for_by_name(self, scraped: Scraped) -> None:
        asked = ["automigrator_run_revisions", "absent"]
        body, _ = scraped.metrics.answer(names=asked)
        assert [name for name, _ in samples(body)] == ["automigrator_run_revisions"]

    def test_ready_is_told_once_the_gate_has_said_so(self, scraped: Scraped) -> None:
        assert scraped.value("ready") is None
        scraped.metrics.ready(False)
        assert scraped.value("ready") == 0
        Metrics(scraped.registry).ready(True)
        assert scraped.value("ready") == 1

    async def test_a_hostile_name_of_a_target_stays_within_its_label(
        self, notes: Application, scraped: Scraped
    ) -> None:
        name = 'a"} 1\nautomigrator_ready 1\n# \\ \udcff\u202e'
        target = Target(notes.url, notes.config, name=name)
        await Migrator(target, mode="migrate", plugins=[scraped.metrics]).run()
        told = scraped.labelled("last_run_outcome", 1)
        shown = 'a"} 1\\nautomigrator_ready 1\\n# \\ \\udcff\\u202e'
        assert told == [{"target": shown, "outcome": "current"}]
        assert scraped.value("ready") is None

    async def test_no_label_holds_a_revision_a_message_or_a_place(
        self, notes: Application, scraped: Scraped
    ) -> None:
        notes.deploy("op.execute(\"INSERT INTO absent VALUES ('literal-canary')\")")
        with pytest.raises(MigrationError):
            await start(notes, scraped.metrics, recovery=[Restoring()])
        body = scraped.metrics.answer()[0].decode()
        assert not [each for each in ("canary", "r2", "absent", str(notes.root)) if each in body]
        names = {name for each in INSTRUMENTS for name in each.labels}
        assert names == {"target", "outcome", "kind", "on", "found", "recovery", "result"}


def story() -> Iterator[Event]:
    """Every event that an instrument declares, at least once, where it tells something new."""
    ended = {"applied": ["r2"], "outcome": "failed"}

    def run(name: str, *told: tuple[str, dict[str, Any]], end: str = "run-finished") -> Any:
        yield Event(end.replace("finished", "started"), "app", {"targets": ["app", "b"]}, run=name)
        for event, data in told:
            yield Event(event, "app", {"seconds": 1, "waited_s": 1, **data}, run=name)
        data = {"outcome": "failed", "seconds": 1, "targets": {"app": "failed"}}
        yield Event(end, "app", data, run=name)

    def waiting(on: str) -> tuple[str, dict[str, Any]]:
        return ("waiting", {"on": on, "seconds": 5})

    yield Event("skipped", None, {"reason": "off"}, run="0")
    yield from run(
        "1",
        *(waiting("server"), ("reached", {}), waiting("lock"), ("locked", {})),
        *(waiting("server"), ("failed", {"kind": "unreachable"})),
        *(waiting("leader"), ("waited", {"on": "leader", "found": "current"})),
        *(("repaired", {}), ("snapshot-taken", {})),
        *(("rehearsal-started", {"pending": 2}), ("revision-done", {}), ("rehearsed", {})),
        *(("attempt-started", {"pending": 3}), ("revision-started", {"index": 2, "total": 4})),
        *(("revision-done", {}), ("rehearsal-started", {"pending": 2}), ("rehearsal-failed", {})),
        *(("restored", {}), ("recreated", {}), ("crash-loop", {})),
        *(("revision-done", {}), waiting("lock"), ("target-finished", ended), waiting("lock")),
    )
    steps = waiting("lock"), ("revision-started", {"index": 2, "total": 2})
    yield from run("2", *steps, end="rollback-finished")


class TestDeclarations:
    def test_an_instrument_declares_the_events_that_change_it(self, scraped: Scraped) -> None:
        changed: dict[str, set[str]] = {each.name: set() for each in INSTRUMENTS}
        before = scraped.samples()
        for event in story():
            scraped.metrics.follow(event)
            now = scraped.samples()
            for sample in {name for name, _ in dict(now.items() - before.items())}:
                family = re.sub("_(created|count|sum|bucket)$", "", sample)
                family = family if family in changed else f"{family}_total"
                changed[family].add(event.name)
            before = now
        assert not scraped.metrics._logged
        assert changed == {each.name: set(each.events) for each in INSTRUMENTS}

    def test_every_event_that_is_declared_exists(self) -> None:
        assert {event for each in INSTRUMENTS for event in each.events} <= set(CATALOGUE)


WORKER = """
import asyncio, os, sys
from automigrator import MigrationError, Migrator, Target
from automigrator.prometheus import Metrics
url, config = sys.argv[1:]
metrics = Metrics()
try:
    asyncio.run(Migrator(Target(url, config), mode="migrate", plugins=[metrics]).run())
except MigrationError:
    pass
metrics.ready(True)
names = sys.stdin.readline().split()
os.write(1, metrics.answer(names=names)[0])
"""


FOLLOWER = """
import asyncio, os, sys
from automigrator import Migrator, Target, hookimpl
from automigrator.prometheus import Metrics
url, config, done = sys.argv[1:]
metrics = Metrics()

class Looking:
    @hookimpl
    def on_event(self, event):
        if event.name == "waiting" and event.data["seconds"] > 0 and not os.path.exists(done):
            os.write(1, metrics.answer()[0])
            open(done, "w").close()

asyncio.run(Migrator(Target(url, config), mode="migrate", plugins=[metrics, Looking()]).run())
"""


@pytest.mark.long
class TestSeveralProcesses:
    """With `PROMETHEUS_MULTIPROC_DIR` any process answers for all."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "metrics"
        folder.mkdir()
        return folder

    def begun(
        self, code: str, notes: Application, folder: Path, *arguments: str
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", code, notes.url, str(notes.config), *arguments],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def worker(self, notes: Application, folder: Path, names: str = "") -> bytes:
        """What a process answers that starts the application, after all that ended before it."""
        with self.begun(WORKER, notes, folder) as process:
            told, _ = process.communicate(f"{names}\n".encode())
        assert process.returncode == 0
        return told

    def test_one_that_waits_does_not_hide_what_the_leader_does(
        self, notes: Application, folder: Path, tmp_path: Path
    ) -> None:
        begun, done = tmp_path / "begun", tmp_path / "done"
        wait = f"""
import pathlib, time
pathlib.Path({str(begun)!r}).touch()
while not pathlib.Path({str(done)!r}).exists():
    time.sleep(0.01)
"""
        notes.deploy(GOOD, wait)
        with self.begun(WORKER, notes, folder) as leader:
            while not begun.exists() and leader.poll() is None:
                time.sleep(0.01)
            with self.begun(FOLLOWER, notes, folder, str(done)) as follower:
                told = samples(follower.communicate()[0])
            done.touch()
            leader.communicate(b"\n")
        assert (leader.returncode, follower.returncode) == (0, 0)
        assert told["automigrator_waiting_seconds", (("on", "lock"),)] > 0
        assert told["automigrator_run_revisions", ()] == 2
        assert told["automigrator_run_revisions_done", ()] == 1

    def test_counts_are_added_and_the_last_to_know_an_outcome_is_believed(
        self, notes: Application, folder: Path
    ) -> None:
        notes.deploy(UNIQUE)
        failed = samples(self.worker(notes, folder))
        assert failed["automigrator_runs_total", (("outcome", "failed"),)] == 1
        assert failed["automigrator_pending_revisions", (("target", "app"),)] == 1
        notes.execute("DELETE FROM notes")
        told = samples(self.worker(notes, folder))
        assert told["automigrator_runs_total", (("outcome", "failed"),)] == 1
        assert told["automigrator_runs_total", (("outcome", "migrated"),)] == 1
        assert told["automigrator_run_duration_seconds_count", ()] == 2
        assert told["automigrator_pending_revisions", (("target", "app"),)] == 0
        assert told["automigrator_ready", ()] == 1
        outcomes = [
            dict(labels)["outcome"]
            for (name, labels), value in told.items()
            if name == "automigrator_last_run_outcome" and value == 1
        ]
        assert outcomes == ["migrated"]
        assert not [labels for _, labels in told if "pid" in dict(labels)]

    def test_samples_can_be_asked_for_by_name(self, notes: Application, folder: Path) -> None:
        told = samples(self.worker(notes, folder, "automigrator_runs_total"))
        assert {name for name, _ in told} == {"automigrator_runs_total"}


def test_a_folder_for_several_processes_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="PROMETHEUS_MULTIPROC_DIR.*absent"):
        Metrics(CollectorRegistry())
