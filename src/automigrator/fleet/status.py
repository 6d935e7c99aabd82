"""How a fleet stands: who lacks what, told by groups of tenants that lack the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from automigrator.failure import json_fields
from automigrator.fleet.report import counted, named
from automigrator.frozen import Frozen
from automigrator.printable import escaped, joined
from automigrator.report import heads_text
from automigrator.status import Plan

MOST_SHOWN = 20
"""Groups, or tenants with a problem, that a person is shown."""


class Lacking(Frozen):
    """Tenants that are at the same heads, and lack the same revisions."""

    heads: tuple[str, ...]
    """Where they are."""
    wanted: tuple[str, ...]
    """Where the code expects them."""
    pending: tuple[str, ...]
    """The revisions that they lack, in the order they would run."""
    tenants: tuple[str, ...]
    """Their names."""

    def __str__(self) -> str:
        pending = ", ".join(self.pending[:5]) + (", ..." if len(self.pending) > 5 else "")
        return escaped(
            f"{len(self.tenants)} at {heads_text(self.heads)}, {len(self.pending)} pending to "
            f"{heads_text(self.wanted)}: {pending} ({named(self.tenants)})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON types."""
        return json_fields(self)


class TenantProblem(Frozen):
    """A tenant that no run could bring to head as it stands."""

    name: str
    kind: str
    message: str

    def __str__(self) -> str:
        return escaped(f"{self.name}: {self.kind}: {self.message}")

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON types."""
        return json_fields(self)


class FleetStatus(Frozen):
    """How every tenant stands against its history; nothing was changed to find out."""

    total: int
    """The number of tenants."""
    lacking: tuple[Lacking, ...] = ()
    """Those that are not at head, by what they lack; the largest group first."""
    problems: tuple[TenantProblem, ...] = ()
    """Those that a run would fail at, as far as a look can tell."""
    quarantined: Mapping[str, str] = {}
    """The names of those in quarantine, and why each is."""

    @property
    def current(self) -> bool:
        """Whether every tenant is at the revision the code expects."""
        return not (self.lacking or self.problems)

    @property
    def counts(self) -> dict[str, int]:
        """The number of tenants that are current, pending, or have a problem."""
        pending = sum(len(each.tenants) for each in self.lacking)
        rest = self.total - pending - len(self.problems)
        told = {"current": rest, "pending": pending, "problem": len(self.problems)}
        return {word: number for word, number in told.items() if number}

    def __str__(self) -> str:
        lines = [f"{self.total} tenants: {counted(self.counts)}"]
        for parts in (self.lacking, self.problems):
            lines += [f"  {each}" for each in parts[:MOST_SHOWN]]
            if len(parts) > MOST_SHOWN:
                lines.append(f"  and {len(parts) - MOST_SHOWN} more")
        if self.quarantined:
            lines.append(f"  in quarantine: {named(tuple(self.quarantined))}")
        return joined(lines)

    def to_dict(self) -> dict[str, Any]:
        """Every field, `current` and the counts, as JSON types."""
        return {
            "current": self.current,
            "total": self.total,
            "counts": self.counts,
            "lacking": [each.to_dict() for each in self.lacking],
            "problems": [each.to_dict() for each in self.problems],
            "quarantined": dict(self.quarantined),
        }


class FleetPlan(Frozen):
    """What a run would apply: a plan for each group of tenants that lack the same."""

    groups: tuple[tuple[Lacking, Plan], ...] = ()
    """The tenants of a group, and the plan of the first of them."""
    problems: tuple[TenantProblem, ...] = ()
    """Tenants that no plan can be made for."""

    @property
    def pending(self) -> bool:
        """Whether any tenant has a pending revision."""
        return bool(self.groups)

    def __str__(self) -> str:
        lines = []
        for lacking, plan in self.groups:
            names = named(lacking.tenants)
            before, after = heads_text(plan.before), heads_text(plan.after)
            lines.append(f"{len(lacking.tenants)} tenants: {before} -> {after} ({names})")
            lines += [f"  {each}" for each in plan.revisions]
        lines += [str(each) for each in self.problems[:MOST_SHOWN]]
        return joined(lines or ["nothing pending"])

    def to_dict(self) -> dict[str, Any]:
        """Every field and `pending`, as JSON types."""
        groups = [
            {"tenants": list(lacking.tenants), "plan": plan.to_dict()}
            for lacking, plan in self.groups
        ]
        problems = [each.to_dict() for each in self.problems]
        return {"pending": self.pending, "groups": groups, "problems": problems}


class LedgerStatus(Frozen):
    """What the ledger says of a fleet; no tenant's database was asked."""

    total: int
    """The number of tenants of the source."""
    counts: Mapping[str, int]
    """How many are done, failed, quarantined, or not known yet, with the files as they are now."""
    quarantined: Mapping[str, str] = {}
    """The names of those in quarantine, and why each is."""
    paused: bool = False
    """Whether somebody has paused the fleet."""

    def __str__(self) -> str:
        paused = "; paused, and no further tenant is begun" if self.paused else ""
        lines = [f"{self.total} tenants: {counted(self.counts)}{paused}"]
        shown = list(self.quarantined.items())
        lines += [f"  quarantined: {name}: {why}" for name, why in shown[:MOST_SHOWN]]
        if len(shown) > MOST_SHOWN:
            lines.append(f"  and {len(shown) - MOST_SHOWN} more in quarantine")
        return joined(lines)

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON types."""
        told = {"total": self.total, "counts": dict(self.counts), "paused": self.paused}
        return {**told, "quarantined": dict(self.quarantined)}
