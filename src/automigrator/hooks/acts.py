"""The acts of one target's run on its database, in order: each one records itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Kind = Literal["recover", "prepare", "stamp", "snapshot", "restore", "recreate"]
"""`recover` ends what a killed leader began, `prepare` is the hook `before_migrate`."""


class Act:
    """One act that has begun; `ended` says that it ended well, `changed` that it did something."""

    ended = False
    changed = True

    def __init__(self, kind: Kind) -> None:
        self.kind = kind


class Acts:
    """What has been done so far, by the core itself and for plugins."""

    def __init__(self) -> None:
        self._log: list[Act] = []

    @contextmanager
    def act(self, kind: Kind) -> Iterator[Act]:
        """Context manager: an act is under way; it has ended well when nothing is raised."""
        act = Act(kind)
        self._log.append(act)
        yield act
        act.ended = True

    def began(self, kind: Kind) -> bool:
        """Whether such an act was begun, however it ended."""
        return any(act.kind == kind for act in self._log)

    def done(self, kind: Kind) -> bool:
        """Whether such an act ended well, and changed something."""
        return any(act.kind == kind and act.ended and act.changed for act in self._log)

    def open(self, kind: Kind) -> bool:
        """Whether the last such act has not ended well: the next start ends it."""
        last = next((act for act in reversed(self._log) if act.kind == kind), None)
        return last is not None and not last.ended

    def tried(self) -> int:
        """How many acts that change the database for a plugin have begun, however they ended."""
        return sum(act.kind in ("restore", "recreate") for act in self._log)

    def count(self) -> int:
        """How many acts that change the database for a plugin have ended well."""
        return sum(act.ended and act.kind in ("restore", "recreate") for act in self._log)
