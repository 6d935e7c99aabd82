"""What is told while a rollout goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import fleets

from automigrator.fleet import Fleet, FleetError, TenantReport
from automigrator.fleet.progress import CATALOGUE, LOUD, Progress

DOCS = Path(__file__).parents[2] / "docs" / "fleets.md"


async def test_a_run_is_told_as_a_whole_and_each_tenant(
    fleet_of: Callable[..., Fleet], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("automigrator.fleet.progress.TELL_S", 0.01)
    fleet = fleet_of("a", "b", "c", max_failures=0, concurrency=1)
    fleets.spoil(folder / "b.db")
    events = fleet.events()
    with pytest.raises(FleetError):
        await fleet.run()
    told = [each async for each in events]
    for each in told:
        assert set(each.data) == set(CATALOGUE[each.name].keys), each
        assert json.loads(json.dumps(each.to_dict()))["run"] == told[0].run
    names = [each.name for each in told]
    assert names[:3] == ["fleet-started", "group-started", "tenant-started"]
    assert names[-1] == "fleet-finished" and "fleet-progress" in names
    assert "fleet-stopped" in names and "tenant-failed" in names
    ended = {each.target: each.data["outcome"] for each in told if each.name == "tenant-finished"}
    assert ended == {"a": "migrated", "b": "failed"}
    assert (fleet.progress.done, fleet.progress.failed, fleet.progress.total) == (2, 1, 3)


def test_the_time_left_is_what_is_left_at_the_pace_of_the_last_tenants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("automigrator.fleet.progress.time.monotonic", lambda: now)
    progress = Progress()
    progress.begin(1000, 1)
    assert progress.seconds_left is None
    for number in range(300):
        now += 10.0 if number < 100 else 2.0  # the first ones were slow, and do not count now
        progress.started(str(number), "the rest", "h")
        progress.ended(TenantReport(str(number), "migrated"))
    assert progress.seconds_left == pytest.approx(2.0 * 700, rel=0.01)


def test_thousands_that_fail_get_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress()
    with caplog.at_level("INFO", "automigrator.fleet"):
        progress.begin(500, 1)
        for number in range(500):
            progress.started(str(number), "the rest", "h")
            progress.ended(TenantReport.failed(str(number), "env", "it fails"))
    lines = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(lines) == LOUD


def test_a_listener_that_reads_nothing_keeps_no_memory() -> None:
    progress = Progress()
    subscription: Any = progress.subscribed()
    progress.begin(10_100, 1)
    for number in range(10_100):
        progress.started(str(number), "the rest", "h")
    assert len(subscription._queue) == 10_000 and subscription.dropped == 101


def test_the_page_describes_every_event() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \|", DOCS.read_text("utf-8"), re.MULTILINE)
    described = {name: set(re.findall(r"`(\w+)`", keys)) for name, keys in rows}
    assert described == {name: set(each.keys) for name, each in CATALOGUE.items()}
