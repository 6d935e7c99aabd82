"""What a run did, for a person (`str`) and for a machine (`to_dict`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from automigrator.frozen import Frozen, as_json
from automigrator.printable import escaped, joined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from automigrator.failure import Failure, State
    from automigrator.measurement import Measurement

Outcome = Literal[
    "skipped",
    "current",
    "migrated",
    "reverted",
    "recovered",
    "not-run",
    "degraded",
    "failed",
    "cancelled",
]

SEVERITY: tuple[Outcome, ...] = get_args(Outcome)

"""From best to worst; a report's outcome is the worst of its targets'."""

_UNKNOWN = "the database could not be looked at"


class Applied(Frozen):
    """One applied revision, and how long it took in seconds."""

    revision: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class TargetReport(Frozen):
    """One target's part of a run."""

    name: str
    """The target's name."""
    outcome: Outcome
    """How it ended: see `SEVERITY`."""
    before: tuple[str, ...] = ()
    """The heads that the database had when the run first looked."""
    after: tuple[str, ...] = ()
    """The heads that the database had at the end, as far as they are known."""
    applied: tuple[Applied, ...] = ()
    """The revisions that this run applied, in order."""
    reverted: tuple[Applied, ...] = ()
    """The revisions that a rollback undid, in order."""
    attempts: int = 0
    """How often the run tried to apply the pending revisions."""
    failures: tuple[Failure, ...] = ()
    """What stopped each attempt that failed, in order."""
    drive: str | None = None
    """How env.py was run, for a person; None where it was not."""
    leader: bool = False
    """Whether this process migrated the database itself."""
    waited_s: float = 0.0
    """Seconds that the run waited for the migration lock."""
    elapsed_s: float = 0.0
    """Seconds that the target took in all."""
    notes: tuple[str, ...] = ()
    """What plugins and the core had to say, one sentence each."""
    failed_starts: int = 0
    """How many starts in a row have failed at the same revisions, this one included."""
    rehearsed_s: float | None = None
    """Seconds that rehearsals on a copy took, failed ones included; None where there was none."""
    state: State = "clean"
    """What failed attempts left in the database at the end, after what strategies did."""
    deferred: tuple[str, ...] = ()
    """The revisions that are left to a later start, as a rehearsal found them beyond its limits."""
    rehearsal: Measurement | None = None
    """What the last rehearsal measured; None where there was none, or nothing can be measured."""
    snapshot: str | None = None
    """Where the snapshot of this run is: a file or a database; None where none was taken."""

    def __str__(self) -> str:
        head = f"{self.name}: {self.outcome}"
        if self.before != self.after:
            head += f", {heads_text(self.before)} -> {heads_text(self.after)}"
        elif self.after:
            head += f" at {heads_text(self.after)}"
        head += f" ({self.elapsed_s:.2f} s"
        head += f", {self.attempts} attempts)" if self.attempts > 1 else ")"
        lines = [head]
        if self.rehearsed_s is not None:
            lines.append(f"  rehearsed on a copy in {self.rehearsed_s:.2f} s")
        if self.rehearsal is not None:
            told = self.rehearsal.summary.splitlines()
            lines += [f"  on the copy: {line}" for line in told]
        lines += [f"  applied {a.revision} in {a.seconds:.3f} s" for a in self.applied]
        lines += [f"  reverted {a.revision} in {a.seconds:.3f} s" for a in self.reverted]
        if self.deferred:
            lines.append(f"  deferred: {', '.join(self.deferred)}")
        lines += [f"  note: {note}" for note in self.notes]
        if self.failed_starts > 1:
            lines.append(f"  failed starts in a row at these revisions: {self.failed_starts}")
        for index, failure in enumerate(self.failures):
            if index:
                failure = failure._replace(database="")  # the first one has named it
            first, *rest = failure.screen(undone=self.state != failure.state).splitlines()
            head = f"attempt {failure.attempt} failed" if failure.attempt else "not tried"
            lines.append(f"  {head}: {first}")
            lines += [f"    {line}" for line in rest]
        if self.now:
            lines.append(f"  now: {self.now}")
        return joined(lines)

    def screen(self) -> str:
        """What a person needs of a target that failed: its last failure, and how it stands now."""
        besides = [f"note: {note}" for note in self.notes]
        if self.failed_starts > 1:
            besides.append(f"failed starts in a row at these revisions: {self.failed_starts}")
        if self.snapshot is not None and not any(self.snapshot in note for note in self.notes):
            besides.append(f"the snapshot of this run: {self.snapshot}")
        return f"{escaped(self.name)}: {self.failures[-1].screen(self.now, besides)}"

    @property
    def now(self) -> str:
        """The state at the end, where it is not the one that the last failure tells; or empty."""
        known = not self.failures or self.state == self.failures[-1].state
        if known or self.outcome not in ("failed", "degraded"):
            return ""
        left = "what the failure left was undone" if self.state == "clean" else "see the notes"
        if self.state == "unknown":
            return f"unknown ({_UNKNOWN})"
        return f"{self.state}, at {heads_text(self.after)} ({left})"

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON types."""
        return {name: as_json(value) for name, value in vars(self).items()}


class Report(Frozen):
    """One run over all its targets; `report["name"]` is the part of the target of that name."""

    targets: tuple[TargetReport, ...] = ()
    """The targets' parts, in the order in which they were given to the Migrator."""
    elapsed_s: float = 0.0
    """Seconds that the run took."""
    reason: str = ""
    """Why the run did nothing, or ended without a failure of a target; else empty."""
    rollback: bool = False
    """Whether it is the report of a rollback."""

    @property
    def outcome(self) -> Outcome:
        """The worst of the targets' outcomes; `skipped` when the gate was closed."""
        return max((t.outcome for t in self.targets), key=SEVERITY.index, default="skipped")

    def __iter__(self) -> Iterator[TargetReport]:
        return iter(self.targets)

    def __getitem__(self, name: str) -> TargetReport:
        return {target.name: target for target in self.targets}[name]

    def __str__(self) -> str:
        head = f"{'rollback' if self.rollback else 'migration run'}: {self.outcome}"
        head += f" ({self.reason})" if self.reason else f" in {self.elapsed_s:.2f} s"
        parts = "\n".join(map(str, self.targets)).splitlines()
        return joined([head, *(f"  {line}" for line in parts)])

    def to_dict(self) -> dict[str, Any]:
        """Every field and the outcome by their names, as JSON types."""
        fields = {name: as_json(value) for name, value in vars(self).items()}
        return {"outcome": self.outcome, **fields}


def heads_text(heads: tuple[str, ...]) -> str:
    """Heads for a person."""
    return ", ".join(heads) or "base"
