"""What stopped an attempt, what it left behind, and what a recovery strategy may answer."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

FailureKind = Literal[
    "unreachable",
    "auth",
    "lock-timeout",
    "timeout",
    "disk-full",
    "read-only",
    "corrupt",
    "revision",
    "history",
    "ahead",
    "unversioned",
    "env",
    "hook",
    "rehearsal",
]

KINDS: frozenset[str] = frozenset(get_args(FailureKind))

State = Literal["clean", "partial-at-boundary", "partial-within-revision"]

_MEANS: dict[State, str] = {
    "clean": "nothing of this attempt stayed in the database",
    "partial-at-boundary": "whole revisions were applied and stay, no half of one",
    "partial-within-revision": "half of a revision may have stayed",
}

_REHEARSED = "it failed in the rehearsal, on a copy: the database itself was not touched"

DISCARDABLE: frozenset[FailureKind] = frozenset({"revision", "corrupt"})

"""The only kinds a discarding strategy is asked about; the state never widens this."""


class Decision(enum.Enum):
    """What happens after a failure."""

    RETRY = "retry"
    """Look again and make another attempt under the same lock."""
    CONTINUE = "continue"
    """Leave the target `degraded` and let the application start."""
    ABORT = "abort"
    """Stop the run; later targets are `not-run`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What stopped one attempt on one target.

    `message` says what happened; `advice` what a person should do next; `database` is its URL
    without password; `statement` is SQL without its parameters; `applied` holds the revision ids
    that stay applied, in order.
    """

    kind: FailureKind
    message: str
    state: State = "clean"
    revision: str | None = None
    statement: str | None = None
    applied: tuple[str, ...] = ()
    debris: tuple[str, ...] = ()
    advice: str = ""
    attempt: int = 1
    hints: tuple[str, ...] = ()
    """What lay about already, and may have to do with it."""
    database: str = ""
    in_rehearsal: bool = False
    """Whether it happened on a copy, before the database itself was touched."""
    error: BaseException | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        where = f" in revision {self.revision}" if self.revision else ""
        lines = [f"{self.kind}{where}: {self.message}"]
        if self.database:
            lines.append(f"database: {self.database}")
        if self.statement:
            lines.append(f"statement: {self.statement}")
        lines.append(
            f"state: {self.state} ({_REHEARSED if self.in_rehearsal else _MEANS[self.state]})"
            + (f", debris: {', '.join(self.debris)}" if self.debris else "")
        )
        lines += [f"found besides: {hint}" for hint in self.hints]
        if self.applied:
            lines.append(f"applied and kept: {', '.join(self.applied)}")
        if self.advice:
            lines.append(f"what to do: {self.advice}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the exception object, as JSON types."""
        return {
            "kind": self.kind,
            "message": self.message,
            "state": self.state,
            "revision": self.revision,
            "statement": self.statement,
            "applied": list(self.applied),
            "debris": list(self.debris),
            "advice": self.advice,
            "attempt": self.attempt,
            "hints": list(self.hints),
            "database": self.database,
            "in_rehearsal": self.in_rehearsal,
            "error": type(self.error).__name__ if self.error is not None else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Failure:
        """What `to_dict` made, without the exception. Raises KeyError, TypeError."""
        return cls(
            data["kind"],
            data["message"],
            state=data["state"],
            revision=data["revision"],
            statement=data["statement"],
            applied=tuple(data["applied"]),
            debris=tuple(data["debris"]),
            advice=data["advice"],
            attempt=data["attempt"],
            hints=tuple(data.get("hints", ())),
            database=data.get("database", ""),  # an older release leaves none
            in_rehearsal=data.get("in_rehearsal", False),
        )
