"""Whether the databases let an application serve: what a health endpoint asks a Migrator."""

from __future__ import annotations

from typing import Any

from automigrator.frozen import Frozen
from automigrator.printable import escaped
from automigrator.report import Report

_SERVES = ("skipped", "current", "migrated", "recovered", "degraded")


class Readiness(Frozen):
    """Whether the application may serve; true or false like a bool.

    It names targets and outcomes alone, no error and no URL: a health endpoint may show it.
    """

    ready: bool
    """Whether it may."""
    reason: str
    """Why, or why not, in a few words."""
    outcome: str | None = None
    """The outcome of the last run; None before the first has ended."""
    targets: tuple[tuple[str, str], ...] = ()
    """The name of each target, and its outcome in that run."""

    @classmethod
    def after(cls, report: Report | None) -> Readiness:
        """What the last run says: it is ready where that let the application start."""
        if report is None:
            return cls(False, "no run has ended yet")
        ready, outcome = serves(report), report.outcome
        targets = tuple((target.name, target.outcome) for target in report)
        return cls(ready, f"the last run ended: {outcome}", outcome, targets)

    def __bool__(self) -> bool:
        return self.ready

    def __str__(self) -> str:
        return escaped(f"{'ready' if self.ready else 'not ready'}: {self.reason}")

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON types; `targets` maps names to outcomes."""
        return {**vars(self), "targets": dict(self.targets)}


def serves(report: Report | None) -> bool:
    """Whether a run has ended, and let the application start."""
    return report is not None and report.outcome in _SERVES
