"""The instruments: what is counted and measured, and which events it comes from.

Declare a new one here, and describe it in the table of `docs/monitoring.md`; the dashboard of
`examples/monitoring` must show it. No label grows with the data.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from automigrator.errors import ConfigurationError

BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
"""Seconds: a start with nothing to do takes milliseconds, rewriting a table takes an hour."""

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that puts the client library into its mode for several processes."""

READY = "automigrator_ready"
"""Known to the gate alone: it is not exposed before `Metrics.ready` was called."""


class Instrument(NamedTuple):
    """One thing that is measured.

    `name`: as in Prometheus. `text`: its help. `labels`: their names. `events`: what changes it.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    labels: tuple[str, ...]
    events: tuple[str, ...]


def instrument(
    kind: Literal["counter", "gauge", "histogram"], name: str, text: str, labels: str, events: str
) -> Instrument:
    """Declare an instrument; `labels` and `events` are names with a space between."""
    whole = f"automigrator_{name}"
    return Instrument(kind, whole, text, tuple(labels.split()), tuple(events.split()))


counter, gauge, histogram = (
    partial(instrument, kind) for kind in ("counter", "gauge", "histogram")
)

_ENDS = "run-finished rollback-finished"
_WAITS = f"waiting reached locked waited failed target-finished {_ENDS}"
_STEPS = f"attempt-started rehearsal-started revision-started {_ENDS}"

INSTRUMENTS = (
    counter("runs_total", "Runs, by their outcome", "outcome", "skipped run-finished"),
    histogram("run_duration_seconds", "A run over all its targets", "", "run-finished"),
    counter("failures_total", "Failed attempts, by their kind", "target kind", "failed"),
    gauge(
        "last_run_outcome",
        "1 for the outcome of the target's last run, 0 for every other outcome",
        "target outcome",
        "target-finished run-finished",
    ),
    gauge(
        "last_run_timestamp_seconds",
        "When the last run ended, in seconds since the epoch; 0: none has",
        "",
        "run-finished",
    ),
    gauge(
        "run_started_timestamp_seconds",
        "When the oldest run under way began, in seconds since the epoch; 0: none is under way",
        "",
        f"run-started rollback-started {_ENDS}",
    ),
    gauge("run_revisions", "Revisions of the runs under way, as far as known", "", _STEPS),
    gauge("run_revisions_done", "Those of them that ran", "", f"revision-done {_STEPS}"),
    gauge(
        "pending_revisions",
        "Revisions the history has and the database lacks, as last known",
        "target",
        "attempt-started rehearsal-started target-finished",
    ),
    histogram("revision_duration_seconds", "One revision that ran", "", "revision-done"),
    gauge(
        "waiting_seconds",
        "How long a run has waited for the server, the lock or the leader; 0: none waits",
        "on",
        _WAITS,
    ),
    histogram(
        "wait_duration_seconds",
        "Waiting for the server, the migration lock, or the leader in mode wait",
        "on",
        "reached locked waited",
    ),
    counter("waits_total", "Waits for another process, by what they found", "on found", "waited"),
    histogram("snapshot_duration_seconds", "Taking and verifying a snapshot", "", "snapshot-taken"),
    histogram(
        "rehearsal_duration_seconds",
        "Applying what is pending to a copy of the database",
        "result",
        "rehearsed rehearsal-failed",
    ),
    counter(
        "recoveries_total",
        "Databases that were restored, rebuilt or repaired",
        "target recovery",
        "restored recreated repaired",
    ),
    histogram(
        "recovery_duration_seconds",
        "Restoring, rebuilding or repairing a database",
        "recovery",
        "restored recreated repaired",
    ),
    counter(
        "crash_loops_total",
        "Starts that tried nothing, as too many had failed at the same revisions",
        "target",
        "crash-loop",
    ),
    gauge("ready", "Whether the gate lets requests through to the application: 1 or 0", "", ""),
)
"""Every instrument, in the order in which the documentation has them."""

_BY_NAME = {each.name: each for each in INSTRUMENTS}


class Instruments:
    """The instruments of one registry. Raises ConfigurationError."""

    def __init__(self, registry: CollectorRegistry) -> None:
        folder = os.environ.get(FOLDER)
        if folder is not None and not os.path.isdir(folder):
            raise ConfigurationError(
                f"{FOLDER} names {folder!r}, which is no folder; no metric is kept: create it, "
                "empty, before the first process starts"
            )
        self._registry = registry
        self._made = {
            each.name: _made(each, registry) for each in INSTRUMENTS if each.name != READY
        }

    def expose(self, name: str, *labels: str) -> None:
        """Show what nothing was added to yet, as 0."""
        self._at(name, labels)

    def count(self, name: str, *labels: str) -> None:
        """Add one to a counter."""
        self._at(name, labels).inc()

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Add a duration to a histogram."""
        self._at(name, labels).observe(seconds)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        if name not in self._made:
            self._made[name] = _made(_BY_NAME[name], self._registry)
        self._at(name, labels).set(value)

    def _at(self, name: str, labels: tuple[str, ...]) -> Any:
        found = self._made[name]
        return found.labels(*labels) if labels else found


def _made(each: Instrument, registry: CollectorRegistry) -> Any:
    match each.kind:
        case "counter":
            return Counter(each.name, each.text, each.labels, registry=registry)
        case "histogram":
            return Histogram(each.name, each.text, each.labels, registry=registry, buckets=BUCKETS)
        case "gauge":
            # of several processes the one that said it last: the dead need nobody to remove them
            return Gauge(
                each.name,
                each.text,
                each.labels,
                registry=registry,
                multiprocess_mode="mostrecent",
            )
