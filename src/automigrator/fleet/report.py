"""What became of one tenant, and of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from automigrator.frozen import Frozen

TenantOutcome = Literal[
    "current", "migrated", "recovered", "degraded", "failed", "not-run", "cancelled"
]


class TenantReport(Frozen):
    """One tenant's part of a rollout, as plain data without secrets: it may come from afar.

    `name`: the tenant's. `outcome`: as of a `TargetReport`. `before`, `after`: heads. `applied`: the
    number of revisions. `seconds`: how long it took. `attempts`: how many. `failure`: of a failed
    one, `kind`, `message`, `revision`, `state` and `advice`. `notes`: one sentence each. `worker`:
    who did it, for people.
    """

    name: str
    outcome: TenantOutcome
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    applied: int = 0
    seconds: float = 0.0
    attempts: int = 0
    failure: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    worker: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The report that `to_dict` wrote."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in told.items()})
