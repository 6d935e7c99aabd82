"""How far one target's part of a run is, kept by its events and told as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from automigrator.events.activity import Activity
from automigrator.events.catalogue import CATALOGUE
from automigrator.failure import Failure
from automigrator.printable import escaped, in_a_line

if TYPE_CHECKING:
    from automigrator.events.catalogue import Declared
    from automigrator.events.event import Event
    from automigrator.report import TargetReport
    from automigrator.status import PendingRevision

TargetPhase = Literal["queued", "running", "waiting", "ended", "failed"]
"""`queued`: its turn has not come. `waiting`: another process migrates it. `failed` or degraded."""

ROWS, ROWS_BEFORE = 15, 5
"""Revisions that are told, and how many of them stand before the one that runs."""

DOINGS_LIMIT = 50
"""Sentences of what was done that are told: the last ones."""

_DOINGS = frozenset(
    """
    repaired repair-failed bootstrapped stamped rehearsed rehearsal-failed decided passed
    hook-failed hook-left snapshot-taken snapshot-failed restored restore-failed recreated
    recreate-failed
    """.split()  # noqa: SIM905 - a list of words, a word each
)
"""The events that say what strategies and the core did besides running revisions."""

_ASIDE = {"rehearsal-started": "on a copy", "recreate-started": "on a fresh database"}
"""The steps within which revisions run on another database than the target's."""

_ENTERED = {
    "locked": "reading the revisions, and asking env.py how the database stands",
    "attempt-started": "running env.py",
    "attempt-finished": "reading what the database has now",
}
"""What a run is at after events that are no steps themselves."""


class Revision:
    """One revision of the run: `state` is pending, running, done or failed."""

    def __init__(self, revision: str, down_revision: Iterable[str] = (), doc: str = "") -> None:
        self.revision = revision
        self.down_revision = list(down_revision)
        self.doc = doc
        self.state: Literal["pending", "running", "done", "failed"] = "pending"
        self.seconds: float | None = None

    def told(self) -> dict[str, Any]:
        """Everything, as JSON types, with the text of others escaped."""
        return {
            "revision": escaped(self.revision),
            "down_revision": [escaped(each) for each in self.down_revision],
            "doc": escaped(in_a_line(self.doc)),
            "state": self.state,
            "seconds": self.seconds,
        }


class TargetProgress:
    """What is known of one target in a run; `clock` gives seconds."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.phase: TargetPhase = "queued"
        self.outcome: str | None = None
        self.failure: dict[str, Any] | None = None
        self._clock = clock
        self._began: float | None = None
        self._elapsed_s = 0.0
        self._activity = Activity(clock)
        self._aside: str | None = None
        self._revisions: dict[str, Revision] = {}
        self._planned: frozenset[str] = frozenset()
        """What the last plan named; the others were done before it."""
        self._leader: tuple[int, int] | None = None
        self._doings: list[str] = []
        self._notes: list[str] = []

    def expect(self, pending: Iterable[PendingRevision]) -> None:
        """Note what is pending before a run begins."""
        self._plan([Revision(e.revision, e.down_revision, e.doc) for e in pending])

    def follow(self, event: Event) -> None:
        """Note what happened to this target."""
        name, data = event.name, event.data
        declared = CATALOGUE.get(name)
        if declared is None:
            return
        if any(each in _ASIDE for each in declared.ends) or name == "failed":
            self._aside = None
        self._aside = _ASIDE.get(name, self._aside)
        if self.phase == "waiting" and name != "waiting":
            self.phase, self._leader = "running", None
        match name:
            case "target-started":
                self.phase, self._began = "running", self._clock()
            case "waiting" if data["on"] != "server":
                self._wait(data["progress"])
            case "planned":
                self._plan([Revision(**each) for each in data["revisions"]])
            case "revision-started" if self._aside is None:
                self._revision(data["revision"]).state = "running"
            case "revision-done" if self._aside is None:
                self._done(data["revision"], data["seconds"])
            case "retrying":
                self._stays(())
            case "failed":
                self._fail(data, data["applied"])
            case "crash-loop":
                self._fail(data["failure"], ())
            case "restored":
                for each in self._revisions.values():
                    each.state = "pending" if each.state == "done" else each.state
            case "note":
                self._notes.append(escaped(data["text"]))
            case "target-finished":
                self._finish(data)
        if name in _DOINGS:
            self._doings = [*self._doings, declared.said(None, data, None)][-DOINGS_LIMIT:]
        if (what := _entered(declared, data)) is not None:
            self._activity.enter(self.name, what)
        self._activity.follow(declared, self.name, data)

    def end(self, report: TargetReport) -> None:
        """Note how its part of the run ended, whatever events said before."""
        self._finish(report.to_dict())
        if self.failure is not None and report.now:
            self.failure["left"] = escaped(report.now)

    @property
    def steps(self) -> tuple[int, int]:
        """How many revisions are done, and of how many; the leader's where this process waits."""
        if self._leader is not None:
            return self._leader
        states = [each.state for each in self._revisions.values()]
        return states.count("done"), len(states)

    @property
    def statement(self) -> int | None:
        """How much of the statement that runs is done, in percent, where the server says so."""
        return self._activity.now.share if self.phase == "running" else None

    def told(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        (done, total), now = self.steps, self._activity.now
        what = ", ".join(filter(None, (now.what, self._aside if now.revision else None)))
        under_way = self.phase in ("running", "waiting")
        revisions = list(self._revisions.values())
        first, last = _window([each.state for each in revisions])
        return {
            "name": escaped(self.name),
            "phase": self.phase,
            "outcome": self.outcome,
            "done": done,
            "total": total,
            "elapsed_s": self._elapsed(),
            "activity": what if under_way else "",
            "activity_s": now.seconds if under_way else 0.0,
            "statement": self.statement,
            "revisions": [each.told() for each in revisions[first:last]],
            "before": first,
            "after": len(revisions) - last,
            "failure": self.failure,
            "strategies": self._doings,
            "notes": [each for each in self._notes if each not in self._doings],
        }

    def _elapsed(self) -> float:
        running = self._began is not None and self.phase in ("running", "waiting")
        return self._clock() - (self._began or 0.0) if running else self._elapsed_s

    def _wait(self, progress: str) -> None:
        """Another process migrates it, and says how far it is: "3/7 r3", or nothing."""
        self.phase = "waiting"
        if self._began is None:
            self._began = self._clock()
        index, _, total = progress.partition(" ")[0].partition("/")
        if index.isdecimal() and total.isdecimal():
            self._leader = max(min(int(index), int(total)) - 1, 0), int(total)

    def _plan(self, pending: Iterable[Revision]) -> None:
        """Put what is pending behind what is done already."""
        fresh = {each.revision: each for each in pending}
        kept = {i: e for i, e in self._revisions.items() if e.state == "done" and i not in fresh}
        self._revisions, self._planned = {**kept, **fresh}, frozenset(fresh)

    def _revision(self, revision: str) -> Revision:
        return self._revisions.setdefault(revision, Revision(revision))

    def _done(self, revision: str, seconds: float | None) -> None:
        each = self._revision(revision)
        each.state, each.seconds = "done", seconds

    def _stays(self, applied: Iterable[str]) -> None:
        """Of the last plan only these stay done: the rest was rolled back."""
        for revision, each in self._revisions.items():
            if revision in self._planned or each.state != "done":
                each.state = "done" if revision in applied else "pending"

    def _fail(self, data: Mapping[str, Any], applied: Iterable[str]) -> None:
        failure = Failure.from_dict(data)
        self.failure = {
            "kind": failure.kind,
            "message": escaped(failure.message),
            "revision": None if failure.revision is None else escaped(failure.revision),
            "state": failure.state,
            "left": escaped(failure.left),
            "advice": escaped(failure.advised()),
        }
        self._stays(applied)
        if failure.revision in self._revisions:  # another process may have met it
            self._revisions[failure.revision].state = "failed"

    def _finish(self, data: Mapping[str, Any]) -> None:
        self._elapsed_s = data["elapsed_s"]
        self.outcome = data["outcome"]
        self.phase = "failed" if self.outcome in ("failed", "degraded") else "ended"
        self._aside, self._leader = None, None
        self._notes = [escaped(each) for each in data["notes"]]
        applied = {each["revision"]: each["seconds"] for each in data["applied"]}
        if data["failures"] and self.phase == "failed":
            self._fail(data["failures"][-1], applied)
        else:
            self.failure = None
            self._stays(applied)
        for revision, seconds in applied.items():
            self._done(revision, seconds)


def _entered(declared: Declared, data: Mapping[str, Any]) -> str | None:
    """What a run is at after an event that is no step itself; None after any other."""
    match declared.name:
        case "hook-started":
            return f"in {data['hook']} of {data['plugin']}"
        case "retrying":
            return declared.said(None, data, None)
        case name:
            return _ENTERED.get(name)


def _window(states: list[str]) -> tuple[int, int]:
    """The first and the last of the revisions that are told: those around the one that runs."""
    at = next((i for i, state in enumerate(states) if state in ("running", "failed")), None)
    at = states.count("done") if at is None else at
    first = max(min(at - ROWS_BEFORE, len(states) - ROWS), 0)
    return first, min(first + ROWS, len(states))
