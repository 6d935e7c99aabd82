"""The limits of time, in seconds, of a migrator and of its targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from automigrator.errors import ConfigurationError
from automigrator.frozen import Frozen

if TYPE_CHECKING:
    from dataclasses import KW_ONLY

OF_A_RUN = ("hook", "run")
"""Those that hold for all targets of a run."""

_NO_LIMIT = ("statement", "revision", "run")
"""Those that may be None."""


class Timeouts(Frozen):
    """Limits in seconds: a migrator's, for all its targets, or one target's own.

    What a target says comes before what its migrator says; `hook` and `run` are the migrator's
    alone.

    `connect`: waiting for a server that is away; default 60.
    `lock`: waiting for the migration lock; default 900.
    `retry`: trying again after what passes by itself; default 60, 0: never.
    `load`: the call of `Target(load=)`; default 60.
    `statement`: one statement of a revision; 0 also lifts the limits of time that the server or the
    role sets; default None: those alone.
    `revision`: one revision, or the call of `Target(bootstrap=)`; default None: no limit.
    `hook`: one call of an in-house hook; default 60.
    `run`: a whole run, after which its current step is undone and it fails; default None: no limit.

    `given` are the names of those that were set. Raises ConfigurationError.
    """

    _: KW_ONLY
    connect: float = 60.0
    lock: float = 900.0
    retry: float = 60.0
    load: float = 60.0
    statement: float | None = None
    revision: float | None = None
    hook: float = 60.0
    run: float | None = None

    def _was_given(self, fields: Mapping[str, Any]) -> None:
        self._set(given=tuple(fields))

    def __post_init__(self) -> None:
        for name in self._fields:
            check(name, f"Timeouts({name}=)", getattr(self, name))

    if TYPE_CHECKING:

        @property
        def given(self) -> tuple[str, ...]: ...

    def _compared(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in self._fields if name in self.given}

    def _replace(self, **fields: Any) -> Timeouts:
        return Timeouts(**{**self._compared(), **fields})


def check(name: str, said: str, seconds: object) -> None:
    """Raise ConfigurationError where `seconds` is no such limit; messages call it `said`."""
    if seconds is None and name in _NO_LIMIT:
        return
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    least_is_fine = seconds == 0 and name in ("retry", "statement")
    bounded = name not in ("connect", "lock", "retry")
    if number and (least_is_fine or 0 < seconds < float("inf") or (seconds > 0 and not bounded)):  # type: ignore[operator]  # a number
        return
    zero = {"retry": "; 0 tries nothing again", "statement": "; 0 lifts the server's as well"}
    none = ", or None for no limit" if name in _NO_LIMIT else ""
    raise ConfigurationError(f"{said} is seconds above zero{none}{zero.get(name, '')}")


def of_a_run(
    timeouts: Timeouts | None, hook_timeout: float | None, run_timeout: float | None
) -> Timeouts:
    """A migrator's limits, with those that were given one by one. Raises ConfigurationError."""
    timeouts = Timeouts() if timeouts is None else timeouts
    if not isinstance(timeouts, Timeouts):
        raise ConfigurationError(f"timeouts={timeouts!r} is not a Timeouts(...)")
    for name, seconds in (("hook", hook_timeout), ("run", run_timeout)):
        if seconds is None:
            continue
        check(name, f"{name}_timeout", seconds)
        if name in timeouts.given:
            raise once(name)
        timeouts = timeouts._replace(**{name: seconds})
    return timeouts


def once(name: str) -> ConfigurationError:
    """The error of a limit that is given twice."""
    return ConfigurationError(
        f"{name}_timeout= and Timeouts({name}=) are one limit: leave one of them out"
    )
