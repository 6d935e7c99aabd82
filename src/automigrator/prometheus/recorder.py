"""What each event adds to the instruments, and what the runs under way are at."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from automigrator.events.catalogue import CATALOGUE
from automigrator.events.event import Event
from automigrator.printable import escaped
from automigrator.prometheus.instruments import READY, Instruments
from automigrator.report import SEVERITY

WAITS = ("server", "lock", "leader")
"""What a run may wait for."""

RECOVERIES: Mapping[str, str] = {
    "restored": "restore",
    "recreated": "recreate",
    "repaired": "repair",
}
"""Each event that ends a recovery, and the recovery's name."""

OUTCOMES = tuple(each for each in SEVERITY if each not in ("skipped", "reverted"))
"""How a target's part of a run may end."""

_REACHED = ("current", "migrated", "recovered")
_BEGIN = ("run-started", "rollback-started")
_END = ("run-finished", "rollback-finished", "skipped")
_WAITED = {name for name, declared in CATALOGUE.items() if "waiting" in declared.ends}

REMEMBERED = 1000
"""Runs that are over, of which a slower follower may still hear."""


@dataclass(slots=True, eq=False)
class _Run:
    """What later events of a run do not contain; `follower` is who told of it first."""

    follower: object
    began: float
    targets: tuple[str, ...] = ()
    ended: set[str] = field(default_factory=set)
    pending: dict[str, int] = field(default_factory=dict)
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    """For each target how many revisions ran, and of how many."""
    waits: tuple[str, float] = ("", 0.0)


class Recorder:
    """Records the runs of a process in the instruments of one registry, from any thread.

    A run that several followers tell of counts once.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._instruments = Instruments(registry)
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}
        self._over: deque[str] = deque(maxlen=REMEMBERED)
        self._shown: dict[tuple[str, ...], float] = {}
        for on in WAITS:
            self._instruments.expose("automigrator_waiting_seconds", on)

    def record(self, event: Event, follower: object) -> None:
        """Add an event. Raises what the instruments raise, and KeyError where data is missing."""
        with self._lock:
            run = self._runs.get(event.run)
            if run is None and event.name in _BEGIN and event.run not in self._over:
                run = self._runs[event.run] = _Run(follower, event.at)
            if event.run in self._over or (run is not None and run.follower is not follower):
                return
            try:
                self._add(event, run or _Run(follower, event.at))
            finally:
                if event.name in _END:
                    self._runs.pop(event.run, None)
                    self._over.append(event.run)
                self._show()

    def ready(self, ready: bool) -> None:
        """Say whether the application serves."""
        with self._lock:
            self._instruments.set(READY, float(ready))

    def _add(self, event: Event, run: _Run) -> None:
        data, target, add = event.data, escaped(event.target or ""), self._instruments
        if event.name in _WAITED or event.name == "target-finished":
            run.waits = ("", 0.0)
        match event.name:
            case "skipped":
                add.count("automigrator_runs_total", "skipped")
            case "run-started":
                run.targets = tuple(map(escaped, data["targets"]))
            case "run-finished":
                add.count("automigrator_runs_total", data["outcome"])
                add.observe("automigrator_run_duration_seconds", data["seconds"])
                add.set("automigrator_last_run_timestamp_seconds", event.at)
                self._end(run, data["outcome"], data["targets"])
            case "target-finished":
                run.ended.add(target)
                self._outcome(target, data["outcome"])
                self._left(run, target, data)
            case "attempt-started" | "rehearsal-started":
                run.pending.setdefault(target, data["pending"])
                run.steps[target] = (0, data["pending"])
                add.set("automigrator_pending_revisions", data["pending"], target)
            case "revision-started":
                run.steps[target] = (data["index"] - 1, data["total"])
            case "revision-done":
                done, total = run.steps.get(target, (0, 0))
                run.steps[target] = (min(done + 1, total), total)
                add.observe("automigrator_revision_duration_seconds", data["seconds"])
            case "waiting":
                run.waits = (data["on"], data["seconds"])
            case "locked" | "reached":
                on = "lock" if event.name == "locked" else "server"
                add.observe("automigrator_wait_duration_seconds", data["waited_s"], on)
            case "waited":
                on, found = data["on"], data["found"]
                add.count("automigrator_waits_total", on, found)
                if on != "lock" or found == "timeout":  # else `locked` has been told
                    add.observe("automigrator_wait_duration_seconds", data["seconds"], on)
            case "snapshot-taken":
                add.observe("automigrator_snapshot_duration_seconds", data["seconds"])
            case "rehearsed" | "rehearsal-failed":
                result = "passed" if event.name == "rehearsed" else "failed"
                add.observe("automigrator_rehearsal_duration_seconds", data["seconds"], result)
            case "restored" | "recreated" | "repaired":
                recovery = RECOVERIES[event.name]
                add.count("automigrator_recoveries_total", target, recovery)
                add.observe("automigrator_recovery_duration_seconds", data["seconds"], recovery)
            case "failed":
                add.count("automigrator_failures_total", target, data["kind"])
            case "crash-loop":
                add.count("automigrator_crash_loops_total", target)

    def _end(self, run: _Run, outcome: str, known: Mapping[str, str]) -> None:
        """A target without an outcome of its own ended as the run: refused, say, or never begun."""
        outcomes = {escaped(name): each for name, each in known.items()}
        for target in run.targets:
            if target in outcomes or target not in run.ended:
                self._outcome(target, outcomes.get(target, outcome))

    def _outcome(self, target: str, outcome: str) -> None:
        for each in OUTCOMES:
            value = float(each == outcome)
            self._instruments.set("automigrator_last_run_outcome", value, target, each)

    def _left(self, run: _Run, target: str, data: Mapping[str, Any]) -> None:
        pending = run.pending.get(target)
        if data["outcome"] in _REACHED:
            pending = 0
        elif pending is not None:
            pending = max(pending - len(data["applied"]), 0)
        if pending is not None:
            self._instruments.set("automigrator_pending_revisions", pending, target)

    def _show(self) -> None:
        """Set the gauges of what is under way; nothing that this process has said already.

        Of several processes, one that only waits would else hide what another one does.
        """
        runs = self._runs.values()
        began = min((run.began for run in runs), default=0.0)
        steps = [step for run in runs for step in run.steps.values()]
        self._changed(began, "automigrator_run_started_timestamp_seconds")
        self._changed(sum(total for _, total in steps), "automigrator_run_revisions")
        self._changed(sum(done for done, _ in steps), "automigrator_run_revisions_done")
        for on in WAITS:
            longest = max((run.waits[1] for run in runs if run.waits[0] == on), default=0.0)
            self._changed(longest, "automigrator_waiting_seconds", on)

    def _changed(self, value: float, name: str, *labels: str) -> None:
        if self._shown.get((name, *labels), 0.0) != value:
            self._instruments.set(name, value, *labels)
            self._shown[name, *labels] = value


_made: dict[CollectorRegistry, Recorder] = {}
_making = threading.Lock()


def recorder_of(registry: CollectorRegistry) -> Recorder:
    """Return the only recorder of a registry. Raises ConfigurationError."""
    with _making:
        if registry not in _made:
            _made[registry] = Recorder(registry)
        return _made[registry]
