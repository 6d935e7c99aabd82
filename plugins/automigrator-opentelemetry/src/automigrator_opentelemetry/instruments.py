"""The metrics, counted and measured from the events; no label grows with the data."""

from __future__ import annotations

from opentelemetry.metrics import Histogram, Meter

from automigrator import Event
from automigrator_opentelemetry.attributes import (
    DB_SYSTEM,
    ERROR_TYPE,
    OUTCOME,
    TARGET,
    Attributes,
    error_of,
)
from automigrator_opentelemetry.spans import Facts

BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
"""Seconds: a start with nothing to do takes milliseconds, rewriting a table takes an hour."""

_REACHED = frozenset({"current", "migrated", "recovered"})
_RECOVERIES = {"restored": "restore", "recreated": "recreate", "repaired": "repair"}


class Instruments:
    """The counters and histograms, and what each event adds to them."""

    def __init__(self, meter: Meter) -> None:
        def seconds(name: str, what: str) -> Histogram:
            return meter.create_histogram(
                f"automigrator.{name}.duration",
                unit="s",
                description=what,
                explicit_bucket_boundaries_advisory=BUCKETS,
            )

        self._runs = meter.create_counter(
            "automigrator.runs", unit="{run}", description="Runs, by their outcome"
        )
        self._failures = meter.create_counter(
            "automigrator.failures", unit="{failure}", description="Failed attempts, by their kind"
        )
        self._waits = meter.create_counter(
            "automigrator.waits",
            unit="{wait}",
            description="Waits for another process, by what they found",
        )
        self._pending = meter.create_gauge(
            "automigrator.pending",
            unit="{revision}",
            description="Revisions the history has and the database lacks, as last known",
        )
        self._run = seconds("run", "A run over all its targets")
        self._revision = seconds("revision", "One revision that ran")
        self._wait = seconds("wait", "Waiting for the server, the migration lock, or the leader")
        self._snapshot = seconds("snapshot", "Taking and verifying a snapshot")
        self._rehearsal = seconds("rehearsal", "Applying what is pending to a copy of the database")
        self._recovery = seconds("recovery", "Restoring, rebuilding or repairing a database")

    def record(self, event: Event, facts: Facts) -> None:
        """Count an event, and store in `facts` what later events do not contain."""
        data, target = event.data, event.target or ""
        database = self._database(event, facts)
        match event.name:
            case "run-started":
                facts.mode = data["mode"]
            case "run-finished":
                said: Attributes = {OUTCOME: data["outcome"], "automigrator.mode": facts.mode}
                if (error := error_of(event)) is not None:
                    said[ERROR_TYPE] = error[0]
                self._runs.add(1, said)
                self._run.record(data["seconds"], said)
            case "attempt-started" | "rehearsal-started":
                facts.pending.setdefault(target, data["pending"])
                self._pending.set(data["pending"], {**database, TARGET: target})
            case "target-finished":
                left = facts.pending.get(target)
                if data["outcome"] in _REACHED:
                    self._pending.set(0, {**database, TARGET: target})
                elif left is not None:
                    now = max(left - len(data["applied"]), 0)
                    self._pending.set(now, {**database, TARGET: target})
            case "revision-done":
                self._revision.record(data["seconds"], database)
            case "locked" | "reached":
                on = "lock" if event.name == "locked" else "server"
                self._wait.record(data["waited_s"], {**database, "automigrator.on": on})
            case "waited":
                on, found = data["on"], data["found"]
                said = {**database, "automigrator.on": on}
                self._waits.add(1, {**said, "automigrator.found": found})
                if on != "lock" or found == "timeout":  # else `locked` has been told
                    self._wait.record(data["seconds"], said)
            case "snapshot-taken":
                self._snapshot.record(data["seconds"], database)
            case "rehearsed" | "rehearsal-failed":
                said = dict(database)
                if (error := error_of(event)) is not None:
                    said[ERROR_TYPE] = error[0]
                self._rehearsal.record(data["seconds"], said)
            case "restored" | "recreated" | "repaired":
                act = _RECOVERIES[event.name]
                self._recovery.record(data["seconds"], {**database, "automigrator.act": act})
            case "failed":
                self._failures.add(1, {**database, ERROR_TYPE: data["kind"]})

    def _database(self, event: Event, facts: Facts) -> Attributes:
        known = facts.databases.get(event.target or "", {})
        return {DB_SYSTEM: known[DB_SYSTEM]} if DB_SYSTEM in known else {}
