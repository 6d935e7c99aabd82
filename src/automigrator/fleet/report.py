"""What became of one tenant, and of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, get_args

from automigrator.errors import AutomigratorError
from automigrator.frozen import Frozen
from automigrator.printable import escaped, escaped_lines, joined
from automigrator.report import TargetReport, heads_text

TenantOutcome = Literal[
    "current",
    "migrated",
    "recovered",
    "not-run",
    "quarantined",
    "degraded",
    "failed",
    "cancelled",
]

SEVERITY: tuple[TenantOutcome, ...] = get_args(TenantOutcome)
"""From best to worst; a fleet's outcome is the worst of its tenants'."""

AT_HEAD: frozenset[TenantOutcome] = frozenset({"current", "migrated", "recovered"})
"""The outcomes of a tenant that is at the wanted heads."""

SERVES = AT_HEAD | {"degraded"}
"""The outcomes of a tenant whose requests the application may answer."""

MOST_SHOWN = 20
"""Tenants, or failures of one kind, that are named one by one to a person."""

RETRY = "repair the cause, then `automigrator fleet retry NAME`, or `await fleet.retry(name)`"


class TenantReport(Frozen):
    """One tenant's part of a rollout, as plain data without secrets: it may come from afar.

    `name`: the tenant's. `outcome`: as of a `TargetReport`; `quarantined`: it failed in an earlier
    run, and was not tried. `before`, `after`: heads. `applied`: the number of revisions. `seconds`:
    how long it took. `attempts`: how many. `failure`: of a failed one, `kind`, `message`,
    `revision`, `state` and `advice`. `notes`: one sentence each. `worker`: who did it, for people.
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

    @classmethod
    def of(cls, report: TargetReport) -> Self:
        """The report of a tenant, from that of its target."""
        failed = report.failures[-1] if report.failures else None
        failure = None
        if failed is not None:
            failure = {
                "kind": failed.kind,
                "message": failed.message,
                "revision": failed.revision,
                "state": report.state,
                "advice": failed.advised(report.state != failed.state),
            }
        outcome = report.outcome if report.outcome in SEVERITY else "not-run"
        return cls(
            report.name,
            outcome,
            before=report.before,
            after=report.after,
            applied=len(report.applied),
            seconds=report.elapsed_s,
            attempts=report.attempts,
            failure=failure if outcome not in AT_HEAD else None,
            notes=report.notes,
        )

    @classmethod
    def failed(cls, name: str, kind: str, message: str, advice: str = "") -> Self:
        """The report of a tenant that could not be begun; nothing of it was changed."""
        failure = {"kind": kind, "message": message, "revision": None, "state": "clean"}
        return cls(name, "failed", failure={**failure, "advice": advice})

    @property
    def at_head(self) -> bool:
        """Whether the tenant is at the wanted heads."""
        return self.outcome in AT_HEAD

    @property
    def headline(self) -> str:
        """Its failure in a line, without the tenant's name; empty where there is none."""
        told = self.failure
        if told is None:
            return ""
        where = f" in revision {told['revision']}" if told.get("revision") else ""
        left = told.get("state", "clean")
        state = "" if left == "clean" else f" (state: {left})"
        return escaped(f"{told.get('kind')}{where}: {told.get('message')}{state}")

    def __str__(self) -> str:
        head = f"{self.name}: {self.outcome}"
        if self.before != self.after and self.after:
            head += f", {heads_text(self.before)} -> {heads_text(self.after)}"
        lines = [head + (f", {self.headline}" if self.failure is not None else "")]
        if advice := (self.failure or {}).get("advice"):
            lines.append(f"  what to do: {advice}")
        return joined([*lines, *(f"  note: {each}" for each in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The report that `to_dict` wrote."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in told.items()
        }
        return cls(**fields)


class FleetReport(Frozen):
    """One rollout over all tenants; `report["name"]` is the part of the tenant of that name."""

    tenants: tuple[TenantReport, ...] = ()
    """The tenants' parts, in the order in which they ended; the untried ones come last."""
    elapsed_s: float = 0.0
    """Seconds that the rollout took."""
    reason: str = ""
    """Why the rollout did nothing, or ended early; else empty."""
    notes: tuple[str, ...] = ()
    """What else happened, one sentence each."""

    @property
    def outcome(self) -> TenantOutcome | Literal["skipped"]:
        """The worst of the tenants' outcomes; `skipped` when the gate was closed."""
        return max((t.outcome for t in self.tenants), key=SEVERITY.index, default="skipped")

    @property
    def counts(self) -> dict[str, int]:
        """The number of tenants of each outcome that there is, from best to worst."""
        found = Counter(each.outcome for each in self.tenants)
        return {outcome: found[outcome] for outcome in SEVERITY if found[outcome]}

    @property
    def at_head(self) -> bool:
        """Whether every tenant is at the wanted heads."""
        return all(each.at_head for each in self.tenants)

    def of(self, *outcomes: TenantOutcome) -> tuple[TenantReport, ...]:
        """The tenants of these outcomes."""
        return tuple(each for each in self.tenants if each.outcome in outcomes)

    def __iter__(self) -> Iterator[TenantReport]:
        return iter(self.tenants)

    def __getitem__(self, name: str) -> TenantReport:
        return {each.name: each for each in self.tenants}[name]

    def __str__(self) -> str:
        head = f"fleet: {self.outcome}"
        if self.reason:
            head += f" ({self.reason})"
        lines = [f"{head}; {counted(self.counts)} in {self.elapsed_s:.2f} s"]
        lines += [f"  {line}" for line in self._failing()]
        if waiting := self.of("quarantined"):
            lines.append(f"  quarantined, and not tried: {some(waiting)}; {RETRY}")
        if untried := self.of("not-run", "cancelled"):
            lines.append(f"  not at head yet: {some(untried)}; the next run goes on with them")
        return joined([*lines, *(f"  note: {each}" for each in self.notes)])

    def _failing(self) -> Iterator[str]:
        """The failing tenants, those of one failure together, the most frequent first."""
        alike: dict[tuple[str, str], list[TenantReport]] = {}
        for each in self.of("failed", "degraded"):
            advice = str((each.failure or {}).get("advice", ""))
            alike.setdefault((each.headline, advice), []).append(each)
        kinds = sorted(alike.items(), key=lambda kind: -len(kind[1]))
        for (headline, advice), tenants in kinds[:MOST_SHOWN]:
            yield f"{tenants[0].outcome}: {some(tenants)}: {headline or 'no failure was told'}"
            if advice:
                yield f"  what to do: {advice}"
        if rest := sum(len(tenants) for _, tenants in kinds[MOST_SHOWN:]):
            yield f"and {rest} more, each with another failure; to_dict() has all of them"

    def to_dict(self) -> dict[str, Any]:
        """Every field, the outcome and the counts by their names, as JSON types."""
        told = {name: getattr(self, name) for name in ("outcome", "counts", "elapsed_s", "reason")}
        tenants = [each.to_dict() for each in self.tenants]
        return {**told, "notes": list(self.notes), "tenants": tenants}


class FleetError(AutomigratorError):
    """Raised when more tenants failed than `max_failures` lets; `report` has every tenant's part.

    No further tenant was begun: those are `not-run`.
    """

    def __init__(self, message: str, report: FleetReport) -> None:
        super().__init__(message)
        self.report = report

    def __str__(self) -> str:
        return escaped_lines(*self.args)


def counted(counts: Mapping[str, int]) -> str:
    """Counts for a person."""
    return ", ".join(f"{number} {word}" for word, number in counts.items()) or "no tenant"


def some(tenants: tuple[TenantReport, ...] | list[TenantReport]) -> str:
    """The names of tenants for a person: a few of them, where there are many."""
    return named([each.name for each in tenants])


def named(names: list[str] | tuple[str, ...], most: int = 5) -> str:
    """Names for a person, each in one line: at most `most` of them."""
    shown = ", ".join(map(escaped, names[:most]))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
