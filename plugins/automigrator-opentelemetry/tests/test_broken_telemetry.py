"""A collector that is away and events that are lost change nothing, and leave no span open."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from automigrator_opentelemetry import OpenTelemetry
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from support.acting_strategies import Restoring
from support.listened_runs import Recording, with_losses
from support.notes_application import BROKEN, GOOD, HALF_WAY, Application
from support.telemetry import Telemetry, start

from automigrator import Event, MigrationError

pytestmark = pytest.mark.long("postgresql", "missing_or_out_of_order")


class Broken(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise OSError("no collector at the start")

    def on_end(self, span: ReadableSpan) -> None:
        raise OSError("no collector at the end")


class BrokenExporter(SpanExporter):
    def export(self, spans: Any) -> Any:
        raise OSError("no collector")


@pytest.mark.parametrize("broken", [Broken, lambda: SimpleSpanProcessor(BrokenExporter())])
async def test_telemetry_that_is_broken_changes_nothing(
    broken: Callable[[], SpanProcessor],
    notes: Application,
    telemetry: Telemetry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry.tracers.add_span_processor(broken())
    notes.deploy(GOOD)
    with caplog.at_level(logging.ERROR):
        report = await start(notes, plugins=[telemetry.plugin])
    assert report.outcome == "migrated"
    assert notes.heads == {"r2"}
    assert "no collector" in caplog.text
    assert not telemetry.plugin._runs
    assert [value for _, value in telemetry.points("runs")] == [1]


async def test_events_that_are_missing_or_out_of_order_leave_no_span_open(
    notes: Application,
) -> None:
    """Whatever is lost between the first event and the last, 300 times at random."""
    recording = Recording()
    notes.deploy(GOOD, HALF_WAY)
    await start(notes, Restoring(), plugins=[recording])
    for told in with_losses(recording.events, 300):
        telemetry = Telemetry()
        for event in told:
            telemetry.plugin.on_event(event)
        assert telemetry.opened.spans == set()
        assert not telemetry.plugin._runs
        assert len(telemetry.named("run")) == 1


async def test_a_run_whose_beginning_was_not_told_opens_no_span(telemetry: Telemetry) -> None:
    for name in ("target-started", "attempt-started", "target-finished", "run-finished"):
        telemetry.plugin.on_event(Event(name, "app", {}, run="one"))
    assert telemetry.spans == () and telemetry.opened.spans == set()


async def test_without_a_provider_it_does_nothing(notes: Application) -> None:
    notes.deploy(GOOD, BROKEN)
    recording = Recording()
    with pytest.raises(MigrationError):
        await notes.start(plugins=[OpenTelemetry(), recording])
    json.dumps([event.to_dict() for event in recording.events])
