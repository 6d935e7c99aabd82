"""What `Migrator.doctor` found, for a person (`str`) and for a machine (`to_dict`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from automigrator.backends.contract.examiner import Copy, Debris
from automigrator.backends.contract.lock import Record
from automigrator.status import TargetStatus


@dataclass(frozen=True, slots=True)
class TargetCheckup:
    """One target, looked at closely.

    `hints` are what may be half of a revision, `repairs` what was removed on request, and what
    was not and why, `unknown` what could not be found out.
    """

    status: TargetStatus
    reachable: bool = True
    holder: str | None = None
    """Who holds the migration lock."""
    record: Record | None = None
    """What the last leader left that did not reach the wanted heads."""
    copies: tuple[Copy, ...] = ()
    debris: tuple[Debris, ...] = ()
    hints: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The target's name."""
        return self.status.name

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to do and nothing that somebody should look at."""
        wrong = self.record, self.debris, self.hints, self.unknown
        return self.reachable and self.status.current and not any(wrong)

    def __str__(self) -> str:
        lines = [str(self.status)]
        if not self.reachable:
            lines.append("  out of reach: nothing else could be looked at")
        if len(self.status.heads) > 1:
            lines.append(f"  several heads: {', '.join(self.status.heads)}")
        if self.holder:
            lines.append(f"  migration lock: held by {self.holder}")
        if self.record:
            lines += [f"  {line}" for line in _said(self.record)]
        lines += [f"  {copy}" for copy in self.copies]
        lines += [f"  left behind: {each}" for each in self.debris]
        lines += [f"  left behind? {hint}" for hint in self.hints]
        lines += [f"  {repair}" for repair in self.repairs]
        lines += [f"  not known: {each}" for each in self.unknown]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        record = self.record
        return {
            **self.status.to_dict(),
            "healthy": self.healthy,
            "reachable": self.reachable,
            "holder": self.holder,
            "failed_starts": record.starts.count if record else 0,
            "last_outcome": record.outcome if record else None,
            "last_failures": [dict(each) for each in record.failures] if record else [],
            "copies": [copy.to_dict() for copy in self.copies],
            "debris": [each.to_dict() for each in self.debris],
            "hints": list(self.hints),
            "repairs": list(self.repairs),
            "unknown": list(self.unknown),
        }


@dataclass(frozen=True, slots=True)
class Checkup:
    """Every target, looked at closely; what `Migrator.doctor` returns."""

    targets: tuple[TargetCheckup, ...]

    @property
    def healthy(self) -> bool:
        """Whether every target is."""
        return all(target.healthy for target in self.targets)

    def __getitem__(self, name: str) -> TargetCheckup:
        for target in self.targets:
            if target.name == name:
                return target
        raise KeyError(name)

    def __str__(self) -> str:
        return "\n".join(str(target) for target in self.targets)

    def to_dict(self) -> dict[str, Any]:
        return {"healthy": self.healthy, "targets": [each.to_dict() for each in self.targets]}


def _said(record: Record) -> list[str]:
    if record.outcome == "begun":
        ended = "died, or still migrates"
    else:
        ended = f"ended {record.outcome}, leaving the database {record.state}"
    lines = [f"the last start that led, {record.leader}, {ended}"]
    if record.starts.count:
        lines.append(f"failed starts in a row at these revisions: {record.starts.count}")
    lines += [f"it met: {each.get('kind')}: {each.get('message')}" for each in record.failures[-1:]]
    return lines
