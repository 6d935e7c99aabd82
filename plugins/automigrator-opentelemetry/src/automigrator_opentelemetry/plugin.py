"""The plugin: listens to the events of any number of runs at once."""

from __future__ import annotations

from opentelemetry import metrics, trace

from automigrator import Event, __version__, hookimpl
from automigrator_opentelemetry.measuring import Measuring
from automigrator_opentelemetry.tracing import LAST, ROOTS, RunTrace

SCOPE = "automigrator"


class OpenTelemetry:
    """`Migrator(plugins=[OpenTelemetry()])`; without providers the process-wide ones are used.

    The root span's parent is the span that is current where `run()` is awaited. One object may
    serve several migrators, threads and loops.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
        self._measuring = Measuring(metrics.get_meter(SCOPE, __version__, meter_provider))
        # one run tells from one thread, and a dict's own operations are atomic: no lock
        self._runs: dict[str, RunTrace] = {}

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.name in ROOTS:
            self._runs[event.run] = RunTrace(self._tracer)
        run = self._runs.get(event.run)
        if run is None:
            return  # its beginning was not told to this plugin, so its end may not be either
        try:
            self._measuring.tell(event, run.facts)
        finally:
            try:
                run.tell(event)
            finally:
                if event.name in LAST:
                    self._runs.pop(event.run, None)
