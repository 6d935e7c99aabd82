"""Calls one plugin's implementation of one hook, and blames it for what goes wrong."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from automigrator.errors import AutomigratorError
from automigrator.failure import Decision
from automigrator.hooks.grace import GRACE_S, Overdue, called, in_thread_to_its_end
from automigrator.saying import first_line
from automigrator.urls import scrubbed

Around = Callable[[str, str], AbstractContextManager[Callable[[], object]]]
"""What a call is made within; gets the hook's name and whom to blame.

It yields what is called when the hook is left behind.
"""

_CONSEQUENCES = {
    "before_migrate": "nothing was changed",
    "on_failure": "no further plugin was asked",
    "after_migrate": "the migration stays applied",
    "on_event": "the run goes on",
}


class HookError(AutomigratorError):
    """Raised when a plugin's hook raised, ran out of time or answered nonsense.

    `blame` names the plugin and `hook` what it was asked; the plugin's own error is the cause.
    """

    def __init__(self, message: str, blame: str, hook: str) -> None:
        super().__init__(message)
        self.blame = blame
        self.hook = hook


class OverdueError(HookError):
    """Raised when a hook exceeded its deadline."""


def untold(hook: str, blame: str) -> AbstractContextManager[Callable[[], object]]:
    """Tells nobody of a call."""
    return nullcontext(lambda: None)


@dataclass(frozen=True, slots=True)
class Impl:
    """One plugin's implementation of one hook; `accepts` are the arguments it wants."""

    blame: str
    function: Callable[..., object]
    plugin: object
    strategy: bool
    accepts: tuple[str, ...]
    hook: str

    @property
    def asynchronous(self) -> bool:
        return inspect.iscoroutinefunction(inspect.unwrap(self.function))


async def call(
    impl: Impl, deadline_s: float | None, given_up: Callable[[], object], arguments: dict[str, Any]
) -> object:
    """Call `impl` with the arguments it accepts, and await it when it is async.

    A plain function of an in-house plugin runs in a thread, a strategy's in the caller's. When an
    in-house hook does not end within the grace after its cancellation it is left behind, and
    `given_up` told. Raises HookError when it raises, exceeds `deadline_s`, or answers `on_failure`
    with anything but a Decision or None.
    """

    async def work() -> object:
        chosen = accepted(impl, arguments)
        result: object
        if impl.strategy or impl.asynchronous:
            result = impl.function(**chosen)
        else:
            result = await in_thread_to_its_end(lambda: impl.function(**chosen))
        return await result if inspect.isawaitable(result) else result

    try:
        # a strategy may be in the middle of a restore
        grace_s = None if impl.strategy else GRACE_S
        result = await called(f"{impl.hook} of {impl.blame}", work(), deadline_s, grace_s, given_up)
    except Overdue as overdue:
        raise _overdue(impl, deadline_s, given_up=overdue.given_up) from overdue.__cause__
    except Exception as error:
        raise failed(impl, f"raised {described(error)}") from error
    if impl.hook == "on_failure" and not (result is None or isinstance(result, Decision)):
        raise failed(
            impl,
            f"returned a {type(result).__qualname__}; "
            "it must return Decision.RETRY, CONTINUE or ABORT, or None to pass",
        )
    return result


def accepted(impl: Impl, arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in impl.accepts}


def failed(impl: Impl, what: str) -> HookError:
    message = f"{impl.hook} of {impl.blame} {what}; {_CONSEQUENCES[impl.hook]}"
    return HookError(message, impl.blame, impl.hook)


def _overdue(impl: Impl, deadline_s: float | None, *, given_up: bool) -> HookError:
    stays = f", and is left behind, as it did not end within {GRACE_S:g} s more" * given_up
    message = (
        f"{impl.hook} of {impl.blame} exceeded its deadline of {deadline_s:g} s and was "
        f"cancelled{stays}; {_CONSEQUENCES[impl.hook]}"
    )
    return OverdueError(message, impl.blame, impl.hook)


def described(error: Exception) -> str:
    """The error and where it was raised; its first line only, as SQL parameters are below."""
    text = scrubbed(first_line(error))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} ({PurePath(frame.filename).name}:{frame.lineno})"
