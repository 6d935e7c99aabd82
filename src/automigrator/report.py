"""What a run did, for a person (`str`) and for a machine (`to_dict`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from automigrator.failure import Failure

Outcome = Literal["skipped", "current", "migrated", "recovered", "not-run", "degraded", "failed"]

SEVERITY: tuple[Outcome, ...] = (
    "skipped",
    "current",
    "migrated",
    "recovered",
    "not-run",
    "degraded",
    "failed",
)

"""From best to worst; a report's outcome is the worst of its targets'."""


@dataclass(frozen=True, slots=True)
class Applied:
    """One applied revision and the seconds it took."""

    revision: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {"revision": self.revision, "seconds": self.seconds}


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One target's part of a run; times are seconds, `before` and `after` are heads."""

    name: str
    outcome: Outcome
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    applied: tuple[Applied, ...] = ()
    attempts: int = 0
    failures: tuple[Failure, ...] = ()
    drive: str | None = None
    leader: bool = False
    waited_s: float = 0.0
    elapsed_s: float = 0.0
    notes: tuple[str, ...] = ()
    failed_starts: int = 0
    """How many starts in a row have failed at the same revisions, this one included."""
    rehearsed_s: float | None = None
    """How long rehearsals on a copy took, whether they worked or not; None where there was none."""

    def __str__(self) -> str:
        head = f"{self.name}: {self.outcome}"
        if self.before != self.after:
            head += f", {_heads(self.before)} -> {_heads(self.after)}"
        elif self.after:
            head += f" at {_heads(self.after)}"
        head += f" ({self.elapsed_s:.2f} s"
        head += f", {self.attempts} attempts)" if self.attempts > 1 else ")"
        lines = [head]
        if self.rehearsed_s is not None:
            lines.append(f"  rehearsed on a copy in {self.rehearsed_s:.2f} s")
        lines += [f"  applied {a.revision} in {a.seconds:.3f} s" for a in self.applied]
        lines += [f"  note: {note}" for note in self.notes]
        if self.failed_starts > 1:
            lines.append(f"  failed starts in a row at these revisions: {self.failed_starts}")
        for told, failure in enumerate(self.failures):
            if told:
                failure = replace(failure, database="")  # once is enough
            first, *rest = str(failure).splitlines()
            head = f"attempt {failure.attempt} failed" if failure.attempt else "not tried"
            lines.append(f"  {head}: {first}")
            lines += [f"    {line}" for line in rest]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "outcome": self.outcome,
            "before": list(self.before),
            "after": list(self.after),
            "applied": [a.to_dict() for a in self.applied],
            "attempts": self.attempts,
            "failures": [f.to_dict() for f in self.failures],
            "drive": self.drive,
            "leader": self.leader,
            "waited_s": self.waited_s,
            "elapsed_s": self.elapsed_s,
            "notes": list(self.notes),
            "failed_starts": self.failed_starts,
            "rehearsed_s": self.rehearsed_s,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """One run over all its targets."""

    targets: tuple[TargetReport, ...] = ()
    elapsed_s: float = 0.0
    reason: str = field(default="")

    @property
    def outcome(self) -> Outcome:
        """The worst of the targets' outcomes; `skipped` when the gate was closed."""
        return max((t.outcome for t in self.targets), key=SEVERITY.index, default="skipped")

    def __getitem__(self, name: str) -> TargetReport:
        for target in self.targets:
            if target.name == name:
                return target
        raise KeyError(name)

    def __str__(self) -> str:
        head = f"migration run: {self.outcome}"
        head += f" ({self.reason})" if self.reason else f" in {self.elapsed_s:.2f} s"
        return "\n".join([head, *(_indent(str(t)) for t in self.targets)])

    def to_dict(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "elapsed_s": self.elapsed_s,
            "reason": self.reason,
            "targets": [t.to_dict() for t in self.targets],
        }


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """How one database stands against its history; nothing was changed to find out."""

    name: str
    exists: bool
    heads: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    problem: Failure | None = None
    unfinished: bool = False
    """Whether a process was killed while it changed the database; the next run ends what it began,
    and until then neither the heads nor the data may be what they seem."""
    notes: tuple[str, ...] = ()
    drift: tuple[str, ...] | None = None
    """How models and database differ; None where they were not compared."""

    @property
    def current(self) -> bool:
        """Whether a run would find nothing to do."""
        return self.exists and not (self.pending or self.unfinished or self.problem)

    def __str__(self) -> str:
        lines = [self._standing(), *(f"  note: {note}" for note in self.notes)]
        if self.drift is not None:
            lines.append(f"  models: {'agree' if not self.drift else 'differ'}")
            lines += [f"    {each}" for each in self.drift]
        return "\n".join(lines)

    def _standing(self) -> str:
        if self.problem is not None:
            return f"{self.name}: {self.problem}" + (f"\n{_UNFINISHED}" if self.unfinished else "")
        if not self.exists:
            return (
                f"{self.name}: does not exist; {len(self.pending)} pending to {_heads(self.wanted)}"
            )
        if self.pending:
            return (
                f"{self.name}: at {_heads(self.heads)}, {len(self.pending)} pending "
                f"to {_heads(self.wanted)}: {', '.join(self.pending)}"
                + (f"; {_UNFINISHED}" if self.unfinished else "")
            )
        if self.unfinished:
            return f"{self.name}: at {_heads(self.heads)}, {_UNFINISHED}"
        return f"{self.name}: current at {_heads(self.heads)}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "exists": self.exists,
            "current": self.current,
            "heads": list(self.heads),
            "wanted": list(self.wanted),
            "pending": list(self.pending),
            "problem": self.problem.to_dict() if self.problem else None,
            "unfinished": self.unfinished,
            "notes": list(self.notes),
            "drift": list(self.drift) if self.drift is not None else None,
        }


@dataclass(frozen=True, slots=True)
class Status:
    """How every target stands; what `Migrator.check` returns."""

    targets: tuple[TargetStatus, ...]

    @property
    def current(self) -> bool:
        """Whether every database is at the revision the code expects."""
        return all(t.current for t in self.targets)

    def __getitem__(self, name: str) -> TargetStatus:
        for target in self.targets:
            if target.name == name:
                return target
        raise KeyError(name)

    def __str__(self) -> str:
        return "\n".join(str(t) for t in self.targets)

    def to_dict(self) -> dict[str, Any]:
        return {"current": self.current, "targets": [t.to_dict() for t in self.targets]}


@dataclass(frozen=True, slots=True)
class PendingRevision:
    """A revision the history has and the database lacks."""

    revision: str
    down_revision: tuple[str, ...]
    doc: str
    path: str

    def __str__(self) -> str:
        return f"{self.revision}  {self.doc}".rstrip()


@dataclass(frozen=True, slots=True)
class Plan:
    """The pending revisions of one target in the order they would run, and on request their SQL."""

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    revisions: tuple[PendingRevision, ...]
    sql: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.name}: nothing pending at {_heads(self.before)}"]
        if self.revisions:
            lines = [f"{self.name}: {_heads(self.before)} -> {_heads(self.after)}"]
        lines += [f"  {revision}" for revision in self.revisions]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


_UNFINISHED = "a process was killed while it changed the database; the next run ends what it began"


def _heads(heads: tuple[str, ...]) -> str:
    return ", ".join(heads) or "base"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
