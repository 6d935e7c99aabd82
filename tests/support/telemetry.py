"""What the OpenTelemetry plugin exported, read back from the SDK's in-memory exporters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from automigrator_opentelemetry import OpenTelemetry
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from support.notes_application import Application

from automigrator import Migrator, Report


class Opened(SpanProcessor):
    """Which spans were started and have not ended."""

    def __init__(self) -> None:
        self.spans: set[int] = set()

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.spans.add(span.context.span_id)

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.remove(span.context.span_id)


@dataclass
class Telemetry:
    """A plugin, and what it exported."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    opened: Opened = field(default_factory=Opened)

    def __post_init__(self) -> None:
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(self.opened)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.plugin = OpenTelemetry(self.tracers, MeterProvider([self.reader]))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def tree(self) -> list[str]:
        """Every span below its parent, by start, as `depth name`, and ! where it failed."""
        children: dict[int | None, list[ReadableSpan]] = {}
        for span in self.spans:
            children.setdefault(span.parent.span_id if span.parent else None, []).append(span)
        lines: list[str] = []

        def show(parent: int | None, depth: int) -> None:
            for span in sorted(children.get(parent, []), key=lambda span: span.start_time or 0):
                failed = "!" if span.status.status_code is StatusCode.ERROR else ""
                lines.append(f"{'  ' * depth}{span.name.removeprefix('automigrator.')}{failed}")
                show(span.context.span_id, depth + 1)

        show(None, 0)
        return lines

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == f"automigrator.{name}"]

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The attributes and the value, or the count, of each point of a metric."""
        data = self.reader.get_metrics_data()
        found = [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"automigrator.{name}"
            for point in metric.data.data_points
        ]
        return [
            (dict(point.attributes or {}), getattr(point, "value", getattr(point, "count", None)))
            for point in found
        ]


async def start(application: Application, *recovery: object, **options: Any) -> Report:
    target = application.target()
    return await Migrator(target, mode="migrate", recovery=recovery, **options).run()
