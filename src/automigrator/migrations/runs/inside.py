"""Which run of an env.py calls: several may last at once, each with a state of its own.

A run is known by `inside_env`, a context variable that its threads and tasks have as well. A patch
of the process is made once for all runs, and asks which of them calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

_ABSENT = object()

Acts = Mapping[tuple[str, str], object]
"""What an env.py does to its process: a kind of act and what it is done to, and to what effect."""


class NeedsToBeAlone(BaseException):
    """Ends a run beside others before it does what only a run alone may do.

    env.py must not swallow it.
    """


class Inside:
    """One run of an env.py; true while it lasts.

    `known`: what the first run of its history did to the process, when this one has others of
    that history beside it; None when it is alone. `did`: what earlier runs are known to do.
    """

    lasts = True

    def __init__(self, known: Acts | None = None, did: Acts | None = None) -> None:
        self.known = known
        self.did = dict(did or {})
        self.why_alone = ""
        """Why this history's runs must be alone; empty where they need not."""
        self.ended_early = ""
        """Why this run, which has others beside it, must be done again alone."""
        self.proxies: dict[type, Any] = {}
        """What Alembic has installed for a run beside others, by its class."""

    def __bool__(self) -> bool:
        return self.lasts

    @property
    def shares(self) -> bool:
        """Whether others may run beside it."""
        return self.lasts and self.known is not None

    def does(self, kind: str, name: str, effect: object, what: str) -> None:
        """Note an act before it is done; `what` says it to a person: "it sets X".

        Raises NeedsToBeAlone where others run beside, and the first run did not do the same.
        """
        act = (kind, name)
        if self.known is None:
            if self.did.setdefault(act, effect) != effect:
                self.must_be_alone(f"{what} to more than one value")
        elif act not in self.known:
            self._end(f"{what}, which earlier runs did not")
        elif self.known[act] != effect:
            self.must_be_alone(f"{what} to another value than an earlier run")

    def must_be_alone(self, why: str) -> None:
        """Note that this history's runs must be alone, before that is violated.

        Raises NeedsToBeAlone where others run beside.
        """
        self.why_alone = self.why_alone or why
        if self.known is not None:
            self._end(why)

    def ensure_not_ended(self) -> None:
        """Raise NeedsToBeAlone once more where env.py has swallowed it."""
        if self.ended_early:
            raise NeedsToBeAlone(self.ended_early)

    def _end(self, why: str) -> None:
        self.ended_early = self.ended_early or why
        raise NeedsToBeAlone(why)


inside_env: ContextVar[Inside | None] = ContextVar("automigrator_inside_env", default=None)

"""The run of an env.py that has called this code; false or None where none has."""


@contextmanager
def entered(inside: Inside) -> Iterator[Inside]:
    """Context manager: the code in it belongs to this run, which ends with it."""
    token = inside_env.set(inside)
    try:
        yield inside
    finally:
        inside_env.reset(token)
        inside.lasts = False


@contextmanager
def replaced(owner: Any, name: str, by: Any) -> Iterator[None]:
    """Context manager: let a module's, class's or object's attribute be something else."""
    own = vars(owner).get(name, _ABSENT)
    setattr(owner, name, by)
    try:
        yield
    finally:
        if own is not _ABSENT:
            setattr(owner, name, own)
        elif name in vars(owner):
            delattr(owner, name)


class Patches:
    """Patches of the process, made for the first run that needs them and undone after the last."""

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._made = ExitStack()
        self._lock = threading.Lock()
        self._needed_by = 0

    @contextmanager
    def needed(self) -> Iterator[None]:
        """Context manager: the patches are there."""
        with self._lock:
            if not self._needed_by:
                self._made.enter_context(self._make())
            self._needed_by += 1
        try:
            yield
        finally:
            with self._lock:
                self._needed_by -= 1
                if not self._needed_by:
                    self._made.close()
