"""What a revision's faults led to, for a person."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from automigrator.printable import escaped

WORDS = {
    "fail": "the statement fails",
    "kill": "the process is killed",
    "disconnect": "the server ends the connection",
    "full": "the disk is full",
    "lock": "another connection holds locks",
}


@dataclass(frozen=True)
class Trial:
    """One fault: where it was made, and what followed."""

    fault: str
    """As in `WORDS`."""
    at: int
    """The number of the step, from 1."""
    step: str
    """The statement, cut short."""
    ended: str
    """How the start with the fault ended."""
    left: str
    """What it left in the database."""
    then: str
    """How the next start ended."""
    wrong: tuple[str, ...] = ()
    """What is wrong after that; empty where all is well."""


@dataclass
class FaultReport:
    """The faults of one revision on one kind of database."""

    revision: str
    database: str
    trials: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """A line for each thing that is wrong."""
        return [
            f"{self.revision}, step {each.at} ({each.step}), {WORDS[each.fault]}: {line}"
            for each in self.trials
            for line in each.wrong
        ]

    def __str__(self) -> str:
        bad = sum(bool(each.wrong) for each in self.trials)
        verdict = f"{bad} end badly" if bad else "each of them ends well"
        lines = [
            f"revision {self.revision} on {self.database}: {len(self.trials)} faults, {verdict}"
        ]
        for kind, word in WORDS.items():
            trials = [each for each in self.trials if each.fault == kind]
            if not trials:
                continue
            lines.append(f"  {word}")
            width = max(len(each.step) for each in trials)
            for each in trials:
                mark = "BAD" if each.wrong else "ok "
                said = f"{each.ended}; left: {each.left}; next start: {each.then}"
                lines.append(f"    {mark} {each.at:>3} {each.step:<{min(width, 60)}.60}  {said}")
                lines += [f"          {line}" for line in each.wrong]
        lines += [f"  note: {each}" for each in self.notes]
        return "\n".join(map(escaped, lines))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FaultReport:
        """The reverse of `to_dict`."""
        trials = [Trial(**{**each, "wrong": tuple(each["wrong"])}) for each in data["trials"]]
        return cls(data["revision"], data["database"], trials, list(data["notes"]))
