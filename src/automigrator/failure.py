"""What stopped an attempt, what it left behind, and what a recovery strategy may answer."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from automigrator.frozen import Frozen, as_json
from automigrator.printable import escaped, in_a_line, joined

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

State = Literal["clean", "partial-at-boundary", "unknown", "partial-within-revision"]

"""In the order in which one outweighs another: the half of an earlier attempt stays known."""

Blames = Literal["data", "code", "surroundings"]

_MEANS: dict[State, str] = {
    "clean": "nothing of this attempt stayed in the database",
    "partial-at-boundary": "whole revisions were applied and stay, no half of one",
    "unknown": "the database could not be looked at after the failure, and whether something of "
    "the attempt stayed is not known",
    "partial-within-revision": "half of a revision may have stayed",
}

_DOWN: dict[State, str] = {
    **_MEANS,
    "clean": "nothing of this rollback stayed in the database",
    "partial-at-boundary": "whole revisions were undone and stay so, no half of one",
    "partial-within-revision": "half of a downgrade may have stayed",
}

_REHEARSED = "it failed in the rehearsal, on a copy: the database itself was not touched"


class Decision(enum.Enum):
    """What happens after a failure."""

    RETRY = "retry"
    """Look again and make another attempt under the same lock."""
    CONTINUE = "continue"
    """Leave the target `degraded` and let the application start."""
    ABORT = "abort"
    """Stop the run; later targets are `not-run`."""


class Failure(Frozen):
    """What stopped one attempt to migrate a target, and what the attempt left in the database."""

    kind: FailureKind
    """What kind of thing went wrong: see `docs/failures.md`."""
    message: str
    """What happened, in a sentence; it holds no password and no data of a row."""
    state: State = "clean"
    """What the attempt left in the database: nothing, whole revisions, or half of one; `unknown`
    where something may have been committed, and the database could not be looked at."""
    revision: str | None = None
    """The id of the revision that failed; None where it was none of them."""
    statement: str | None = None
    """The SQL that failed, without its parameters; None where it was no statement."""
    applied: tuple[str, ...] = ()
    """The ids of the revisions that stay applied, in order; empty in a report where a restore has
    undone them since."""
    debris: tuple[str, ...] = ()
    """What half of a revision left behind, as far as it was found: tables, indexes."""
    advice: str = ""
    """What a person should do next."""
    attempt: int = 1
    """Which attempt of the run it was, from 1 up; 0 where the run made none."""
    hints: tuple[str, ...] = ()
    """What was found before the attempt and may have to do with the failure."""
    database: str = ""
    """The database's URL without secrets."""
    blames: Blames = "surroundings"
    """Where the cause lies. `data`: the database itself said that its data or schema do not go with
    the revision, or that its file is damaged. `code`: the revision's own code raised. Anything
    else, and anything in doubt, is the `surroundings`."""
    in_rehearsal: bool = False
    """Whether it happened on a copy, before the database itself was touched."""
    rollback: bool = False
    """Whether it happened in a `rollback()`: `applied` are the revisions that stay undone then."""
    error: BaseException | None = None
    """The exception; None in a failure that another process recorded."""

    def _compared(self) -> dict[str, Any]:
        return {**super()._compared(), "error": None}

    @property
    def headline(self) -> str:
        """What happened, and where, in a line."""
        where = f" in revision {self.revision}" if self.revision else ""
        return escaped(f"{self.kind}{where}: {self.message}")

    def __str__(self) -> str:
        return self.screen()

    def screen(self, now: str = "", besides: Sequence[str] = (), *, undone: bool = False) -> str:
        """What a person needs of it: what happened, the state, what to do.

        `now`: the state, where it is another one since; `besides`: further lines; `undone`: whether
        a half that the failure left is gone since, which `now` says, too.
        """
        lines = [self.headline]
        if self.database:
            lines.append(f"database: {self.database}")
        if self.statement:
            lines.append(f"statement: {in_a_line(self.statement)}")
        lines.append(f"state: {now or self.left}")
        lines += [f"found besides: {hint}" for hint in self.hints]
        if self.applied:
            kept = "undone" if self.rollback else "applied and kept"
            lines.append(f"{kept}: {', '.join(self.applied)}")
        lines += besides
        if advice := self.advised(undone or bool(now)):
            lines.append(f"what to do: {advice}")
        return joined(lines)

    def advised(self, undone: bool = False) -> str:
        """What to do; first with the half of a revision, unless that is `undone` by now."""
        if undone or self.in_rehearsal or self.state != "partial-within-revision":
            return self.advice
        half = "downgrade" if self.rollback else "revision"
        return f"undo by hand what stayed of that {half}, or put a copy back. Then: {self.advice}"

    @property
    def left(self) -> str:
        """The state, and what it means."""
        means = (_DOWN if self.rollback else _MEANS)[self.state]
        debris = f", debris: {', '.join(self.debris)}" if self.debris else ""
        return f"{self.state} ({_REHEARSED if self.in_rehearsal else means}){debris}"

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON types; of the exception only its type's name."""
        error = type(self.error).__name__ if self.error is not None else None
        return {**json_fields(self), "error": error}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Failure:
        """The failure that `to_dict` wrote, in this release or another, without the exception.

        Raises ValueError where the data is something else.
        """
        values: dict[str, Any] = {}
        for name, needed in cls.fields().items():
            if name == "error":
                continue
            if name not in data and (needed or name == "state"):
                raise ValueError(f"{name} is missing")
            default, hint = getattr(cls, name, None), cls.__annotations__[name]
            value = data.get(name, default)
            value = tuple(value) if isinstance(value, list) else value
            if not _is_like(value, "" if needed else default, hint):
                raise ValueError(f"{name} is {value!r}, not {hint}")
            values[name] = value
        return cls(**values)


def _is_like(value: object, default: object, hint: object) -> bool:
    """Tell whether a value may stand in a field; one of `kind` may be a later release's."""
    if hint == "State":
        return value in get_args(State)
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    if isinstance(default, int):
        return type(value) is type(default)
    return isinstance(value, str) or (value is None and default is None)


def json_fields(record: Any) -> dict[str, Any]:
    """The fields of a value by their names, as JSON types."""
    return {name: as_json(value) for name, value in vars(record).items()}
