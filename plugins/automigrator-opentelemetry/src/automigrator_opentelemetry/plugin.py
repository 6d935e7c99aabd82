"""The plugin: receives the events of any number of runs at once."""

from __future__ import annotations

from opentelemetry import metrics, trace

from automigrator import Event, __version__, hookimpl
from automigrator_opentelemetry.instruments import Instruments
from automigrator_opentelemetry.spans import LAST, ROOTS, RunTrace

SCOPE = "automigrator"


class OpenTelemetry:
    """Plugin: spans and metrics of every run, for `Migrator(plugins=[OpenTelemetry()])`.

    The root span's parent is the span that is current where `run()` is awaited. One object may
    serve several migrators, threads and loops.

    Arguments:
        tracer_provider: None: the process-wide one.
        meter_provider: None: the process-wide one.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
        self._instruments = Instruments(metrics.get_meter(SCOPE, __version__, meter_provider))
        # each run sends its events from one thread, and dict operations are atomic: no lock
        self._runs: dict[str, RunTrace] = {}

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Add the event to the metrics and to its run's spans."""
        if event.name in ROOTS:
            self._runs[event.run] = RunTrace(self._tracer)
        run = self._runs.get(event.run)
        if run is None:
            return  # this plugin did not see the start of the run
        try:
            self._instruments.record(event, run.facts)
        finally:
            try:
                run.record(event)
            finally:
                if event.name in LAST:
                    self._runs.pop(event.run, None)
