"""How databases stand against their histories: what `Migrator.check` and `.plan` return."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, overload

from automigrator.failure import Failure, json_fields
from automigrator.frozen import Frozen
from automigrator.printable import escaped, escaped_lines, in_a_line, joined
from automigrator.report import heads_text

_UNFINISHED = (
    "an earlier run changed the database and did not end (it was killed, or could not put its "
    "snapshot back); the next run ends what it began"
)


def recorded(failure: Failure) -> list[str]:
    """The lines about a failure that an earlier start has recorded."""
    lines = [f"the last failure: {failure.headline}"]
    if failure.statement:
        lines.append(f"  statement: {in_a_line(failure.statement)}")
    if advice := failure.advised():
        lines.append(f"  what to do: {advice}")
    return lines


class TargetStatus(Frozen):
    """How one database stands against its history; nothing was changed to find out."""

    name: str
    """The target's name."""
    exists: bool
    """Whether the database exists."""
    heads: tuple[str, ...] = ()
    """The heads that the database has."""
    wanted: tuple[str, ...] = ()
    """The heads that the code expects."""
    pending: tuple[str, ...] = ()
    """The revisions that the history has and the database lacks, in the order they would run."""
    problem: Failure | None = None
    """What would stop a run before it changes anything; None where nothing is known to."""
    unfinished: bool = False
    """Whether an earlier run did not end what it began; the next one does, and until then neither
    the heads nor the data may be what they seem."""
    failed_starts: int = 0
    """How many starts in a row have failed, or died, at the revisions that are pending."""
    failing_since: str | None = None
    """When the first of them was, in UTC; None where none has failed."""
    tries_again_at: str | None = None
    """When a start tries again, in UTC, as too many have failed; None where the next one tries."""
    last_failure: Failure | None = None
    """The last failure of those starts, as it was recorded; None where none has failed, or each
    that did has died."""
    notes: tuple[str, ...] = ()
    """What else was noticed, one sentence each."""
    drift: tuple[str, ...] | None = None
    """How models and database differ, one difference each; None where they were not compared."""

    @property
    def current(self) -> bool:
        """Whether a run would find nothing to do."""
        return self.exists and not (self.pending or self.unfinished or self.problem)

    def __str__(self) -> str:
        first, *rest = self._standing()
        lines = [f"{self.name}: {first}", *rest, *self._failing()]
        lines += [f"  note: {note}" for note in self.notes]
        if self.drift is not None:
            lines.append(f"  models: {'agree' if not self.drift else 'differ'}")
            lines += [f"    {each}" for each in self.drift]
        return joined(lines)

    def _failing(self) -> list[str]:
        if not self.failed_starts:
            return []
        many = self.failed_starts
        starts = "1 start has" if many == 1 else f"{many} starts in a row have"
        lines = [f"  {starts} failed at these revisions since {self.failing_since}"]
        if self.last_failure is not None:
            lines += [f"  {line}" for line in recorded(self.last_failure)]
        if self.tries_again_at is not None:
            lines.append(
                f"  no start tries anything before {self.tries_again_at}: deploy a repair of the "
                "revisions, of env.py or of what they import, or call `await migrator.clear()` "
                "once the cause is gone"
            )
        return lines

    def _standing(self) -> list[str]:
        heads, wanted = heads_text(self.heads), heads_text(self.wanted)
        if self.problem is not None:
            return [*str(self.problem).splitlines(), *([_UNFINISHED] if self.unfinished else [])]
        if not self.exists:
            return [f"does not exist; {len(self.pending)} pending to {wanted}"]
        if self.pending:
            pending = ", ".join(self.pending)
            text = f"at {heads}, {len(self.pending)} pending to {wanted}: {pending}"
            return [text + (f"; {_UNFINISHED}" if self.unfinished else "")]
        return [f"at {heads}, {_UNFINISHED}" if self.unfinished else f"current at {heads}"]

    def to_dict(self) -> dict[str, Any]:
        """Every field and `current` by their names, as JSON types."""
        return {**json_fields(self), "current": self.current}


class Status(Frozen):
    """How every target stands; `status["name"]` is the part of the target of that name."""

    targets: tuple[TargetStatus, ...]
    """The targets' parts, in the order in which they were given to the Migrator."""

    @property
    def current(self) -> bool:
        """Whether every database is at the revision the code expects."""
        return all(t.current for t in self.targets)

    def __iter__(self) -> Iterator[TargetStatus]:
        return iter(self.targets)

    def __getitem__(self, name: str) -> TargetStatus:
        return {target.name: target for target in self.targets}[name]

    def __str__(self) -> str:
        return "\n".join(map(str, self.targets))

    def to_dict(self) -> dict[str, Any]:
        """Every target's part and `current`, as JSON types."""
        return {"current": self.current, "targets": [t.to_dict() for t in self.targets]}


class PendingRevision(Frozen):
    """A revision the history has and the database lacks."""

    revision: str
    """Its id."""
    down_revision: tuple[str, ...]
    """The ids of the revisions that it follows; none for a base."""
    doc: str
    """The first paragraph of the file's docstring."""
    path: str
    """The file."""

    def __str__(self) -> str:
        return escaped(f"{self.revision}  {in_a_line(self.doc)}".rstrip())

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON types."""
        return json_fields(self)


class Plan(Frozen):
    """What a run would apply to one target."""

    name: str
    """The target's name."""
    before: tuple[str, ...]
    """The heads that the database has."""
    after: tuple[str, ...]
    """The heads that it would have."""
    revisions: tuple[PendingRevision, ...]
    """The pending revisions, in the order they would run."""
    sql: str | None = None
    """Their SQL; None where it was not asked for."""
    notes: tuple[str, ...] = ()
    """What else was noticed, one sentence each."""

    def __str__(self) -> str:
        head = f"{heads_text(self.before)} -> {heads_text(self.after)}"
        if not self.revisions:
            head = f"nothing pending at {heads_text(self.before)}"
        lines = [f"{self.name}: {head}", *(f"  {revision}" for revision in self.revisions)]
        lines += [f"  note: {note}" for note in self.notes]
        sql = [] if self.sql is None else ["", escaped_lines(self.sql.strip()), ""]
        return "\n".join([joined(lines), *sql])

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON types."""
        return json_fields(self)


class Plans(Frozen):
    """What a run would apply to every target; `plans["name"]` is the part of that target.

    It is a sequence of them, too, in the order in which they were given to the Migrator.
    """

    targets: tuple[Plan, ...]
    """The targets' parts."""

    @property
    def pending(self) -> bool:
        """Whether any target has a pending revision."""
        return any(plan.revisions for plan in self.targets)

    def __iter__(self) -> Iterator[Plan]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    @overload
    def __getitem__(self, which: str | int) -> Plan: ...
    @overload
    def __getitem__(self, which: slice) -> tuple[Plan, ...]: ...
    def __getitem__(self, which: str | int | slice) -> Plan | tuple[Plan, ...]:
        if isinstance(which, str):
            return {target.name: target for target in self.targets}[which]
        return self.targets[which]

    def __str__(self) -> str:
        return "\n".join(map(str, self.targets))

    def to_dict(self) -> dict[str, Any]:
        """Every target's plan, as JSON types."""
        return {"pending": self.pending, "targets": [each.to_dict() for each in self.targets]}
