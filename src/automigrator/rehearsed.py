"""The answer of `rehearse_on()`: what the pending revisions did to a copy."""

from __future__ import annotations

from typing import Any

from automigrator.failure import Failure
from automigrator.frozen import Frozen, as_json
from automigrator.measurement import Measurement
from automigrator.printable import joined
from automigrator.report import Applied, heads_text


class Rehearsed(Frozen):
    """What a target's pending revisions did to a copy that a person made and named."""

    name: str
    """The target's name."""
    database: str
    """The copy's URL without secrets."""
    before: tuple[str, ...] = ()
    """The heads that the copy had."""
    after: tuple[str, ...] = ()
    """The heads that the copy has now."""
    applied: tuple[Applied, ...] = ()
    """The revisions that ran on it, in order."""
    measurement: Measurement | None = None
    """What was measured; None where nothing was pending, or nothing can be measured."""
    failure: Failure | None = None
    """What stopped the revisions; None where all of them ran."""
    notes: tuple[str, ...] = ()
    """What a person should know, one sentence each."""

    def __str__(self) -> str:
        lines = [f"{self.name}, on the copy {self.database}: "]
        lines[0] += f"{heads_text(self.before)} -> {heads_text(self.after)}"
        if not self.applied and self.failure is None:
            lines.append("  nothing was pending")
        if self.measurement is not None:
            lines += [f"  {line}" for line in str(self.measurement).splitlines()]
        lines += [f"  note: {note}" for note in self.notes]
        if self.failure is not None:
            lines += [f"  {line}" for line in str(self.failure).splitlines()]
        return joined(lines)

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON types."""
        return {name: as_json(value) for name, value in vars(self).items()}
