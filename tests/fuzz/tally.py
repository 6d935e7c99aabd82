"""Counts what was done, over the machines of one kind of database."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counts:
    """`limit` is how many runs are wanted; `violations` says what was wrong, and the story."""

    limit: int
    runs: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    looks: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    @property
    def enough(self) -> bool:
        return self.runs >= self.limit

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": self.runs,
            "faults": dict(self.faults),
            "outcomes": dict(self.outcomes),
            "looks": dict(self.looks),
            "violations": len(self.violations),
            "seconds": self.seconds,
        }
