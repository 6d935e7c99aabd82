"""The findings of `Migrator.doctor`, for a person (`str`) and for a machine (`to_dict`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from automigrator.backends.contract.examiner import Copy, Damage, Debris
from automigrator.backends.contract.record import Record
from automigrator.failure import json_fields
from automigrator.frozen import Frozen
from automigrator.printable import joined
from automigrator.status import TargetStatus, recorded

_HELD = (
    "wait for that process (`automigrator wait` returns when the database is migrated), or stop "
    "it: SIGTERM undoes the step that is under way. What is said here needs no lock; run, "
    "rollback, clear, doctor --repair and most of snapshots do"
)


class TargetCheckup(Frozen):
    """The findings about one target."""

    status: TargetStatus
    """How the database stands, as `Migrator.check` reports it."""
    reachable: bool = True
    """Whether the database could be reached; where not, nothing below was looked at."""
    holder: str | None = None
    """The holder of the migration lock, for a person; None where it is free."""
    record: Record | None = None
    """The last leader's record, where it did not reach the wanted heads."""
    copies: tuple[Copy, ...] = ()
    """Our snapshots of the database, and older databases that were set aside."""
    damage: Damage = Damage()
    """What a check for damage has found, and what it left out."""
    debris: tuple[Debris, ...] = ()
    """What killed processes of ours left behind and nobody needs."""
    hints: tuple[str, ...] = ()
    """Objects in the database that may be half of a revision, one sentence each."""
    repairs: tuple[str, ...] = ()
    """What `doctor(repair=True)` removed, and what it left and why, one sentence each."""
    unknown: tuple[str, ...] = ()
    """What could not be found out, one sentence each."""

    @property
    def name(self) -> str:
        """The target's name."""
        return self.status.name

    @property
    def healthy(self) -> bool:
        """Whether a run would find nothing to do, and a person nothing to look into."""
        wrong = self.record, self.damage.found, self.debris, self.hints, self.unknown
        return self.reachable and self.status.current and not any(wrong)

    def __str__(self) -> str:
        lines = str(self.status).splitlines()
        if not self.reachable:
            lines.append("  not reachable: nothing else was looked at")
        if len(self.status.heads) > 1:
            lines.append(f"  several heads: {', '.join(self.status.heads)}")
        if self.holder:
            lines.append(f"  migration lock: held by {self.holder}")
            lines.append(f"  what to do: {_HELD}")
        if self.record:
            lines += [f"  {line}" for line in self._said(self.record)]
        if self.damage.found:
            lines.append(f"  damaged: {self.damage.found}")
        if self.damage.unchecked:
            lines.append(f"  not checked: {self.damage.unchecked}")
        lines += [f"  {copy}" for copy in self.copies]
        lines += [f"  left behind: {each}" for each in self.debris]
        lines += [f"  left behind? {hint}" for hint in self.hints]
        lines += [f"  {repair}" for repair in self.repairs]
        lines += [f"  not known: {each}" for each in self.unknown]
        return joined(lines)

    def _said(self, record: Record) -> list[str]:
        if record.outcome == "begun" and self.holder and record.leader in self.holder:
            ended = "is still migrating"
        elif record.outcome == "begun":
            ended = "died, or is still migrating"
        else:
            ended = f"ended {record.outcome}, leaving the database {record.state}"
        lines = [f"the last leader, {record.leader}, {ended}"]
        failure = record.last_failure
        if failure is not None and self.status.last_failure is None:  # else it is told above
            lines += recorded(failure)
        return lines

    def to_dict(self) -> dict[str, Any]:
        record = self.record
        fields = json_fields(self)
        del fields["status"], fields["record"]
        return {
            **self.status.to_dict(),
            **fields,
            "healthy": self.healthy,
            "last_outcome": record.outcome if record else None,
            "last_failures": [dict(each) for each in record.failures] if record else [],
        }


class Checkup(Frozen):
    """The findings about every target; `checkup["name"]` is the part of the target of that name."""

    targets: tuple[TargetCheckup, ...]
    """The targets' parts, in the order in which they were given to the Migrator."""

    @property
    def healthy(self) -> bool:
        """Whether every target is healthy."""
        return all(target.healthy for target in self.targets)

    def __iter__(self) -> Iterator[TargetCheckup]:
        return iter(self.targets)

    def __getitem__(self, name: str) -> TargetCheckup:
        return {target.name: target for target in self.targets}[name]

    def __str__(self) -> str:
        return "\n".join(map(str, self.targets))

    def to_dict(self) -> dict[str, Any]:
        return {"healthy": self.healthy, "targets": [each.to_dict() for each in self.targets]}
