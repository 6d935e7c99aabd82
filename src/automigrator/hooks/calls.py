"""Calls one plugin's implementation of one hook; its errors name the plugin."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import PurePath
from typing import Any, NamedTuple

from automigrator.errors import HookError, OverdueError, RefusedError
from automigrator.support.concurrency import beside, error_of, in_thread, shielded, started
from automigrator.support.loggers import logger_of

logger = logger_of(__name__)

GRACE_S = 2.0

"""Seconds that an in-house hook has to end after its cancellation."""

_TICK_S = 0.1

Around = Callable[[str, str], AbstractContextManager[Callable[[], object]]]

"""A context manager around a call, made of the hook's name and the plugin's.

It yields the function to call when the hook is left behind.
"""

_CONSEQUENCES = {
    "before_migrate": "nothing was changed",
    "after_migrate": "the migration stays applied",
    "after_run": "the outcome stays as it is",
    "on_event": "the run goes on",
}
"""What follows an error of a hook; that of `on_failure` depends on what the plugin has done."""


class _ExitError(Exception):
    """Raised for what would have ended the process, or the run: its cause, of a plugin."""


@contextmanager
def _kept_alive() -> Iterator[None]:
    """Context manager: a hook's `sys.exit()` is an error of the hook; Ctrl-C passes."""
    try:
        yield
    except (Exception, KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise _ExitError from error


def untold(hook: str, blame: str) -> AbstractContextManager[Callable[[], object]]:
    """Context manager: report nothing about a call."""
    return nullcontext(lambda: None)


class Impl(NamedTuple):
    """One plugin's implementation of one hook; `accepts` are the arguments it wants."""

    blame: str
    function: Callable[..., object]
    plugin: object
    strategy: bool
    accepts: tuple[str, ...]
    hook: str

    @property
    def unlimited(self) -> bool:
        """Whether it is awaited to its end: a strategy that may act, in a restore say."""
        return self.strategy and self.hook not in ("after_run", "on_event")

    @property
    def asynchronous(self) -> bool:
        return inspect.iscoroutinefunction(inspect.unwrap(self.function))

    def accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {name: arguments[name] for name in self.accepts}

    def failed(self, what: str, kind: type[HookError] = HookError) -> HookError:
        """The error of a call that went wrong, with what follows."""
        parts = f"{self.hook} of {self.blame} {what}", _CONSEQUENCES.get(self.hook)
        return kind("; ".join(filter(None, parts)), self.blame, self.hook)


class Call:
    """One call of a hook: how many acts on the database it is in, and whether it is to end."""

    acts: int = 0
    cancelled: bool = False
    raised: Exception | None = None
    """What the last act that failed has raised."""


_current: ContextVar[Call | None] = ContextVar("automigrator_call", default=None)


@contextmanager
def acting(act: str) -> Iterator[None]:
    """Context manager: keep the hook that runs here from being left behind.

    Raises RefusedError where the hook has been told to end.
    """
    call = _current.get() or Call()  # of no hook
    if call.cancelled:
        raise RefusedError(f"cannot {act}: the hook was told to end; nothing was changed")
    call.acts += 1
    try:
        yield
    except Exception as error:
        call.raised = error
        raise
    finally:
        call.acts -= 1


async def call(
    impl: Impl, deadline_s: float | None, given_up: Callable[[], object], arguments: dict[str, Any]
) -> object:
    """Call `impl` with the arguments it accepts, and await it when it is async.

    A plain function of an in-house plugin runs in a thread, a strategy's in the caller's. A hook
    that does not end within GRACE_S seconds after its cancellation is left behind, and `given_up`
    is called; a strategy, which may be restoring, is awaited as long as it takes: see `unlimited`.
    Raises HookError when the hook raises, wants to end the process, cancels itself, exceeds
    `deadline_s`, or answers `on_failure` with anything but a Decision or None.
    """
    current, cancelled = Call(), False
    token = _current.set(current)
    task = started(_work(impl, arguments))
    _current.reset(token)
    try:
        await asyncio.wait({task}, timeout=deadline_s)
    except asyncio.CancelledError:
        cancelled = True
    if not task.done():
        await shielded(_end(task, current, math.inf if impl.unlimited else GRACE_S, given_up))
        if not cancelled:
            what = f"exceeded its deadline of {deadline_s:g} s and was cancelled"
            if not task.done():
                what += f", and is left behind, as it did not end within {GRACE_S:g} s more"
            raise impl.failed(what, OverdueError) from error_of(task)
        if task.done() and not task.cancelled() and task.exception() is None:
            name = f"{impl.hook} of {impl.blame}"
            logger.warning("%s swallowed its CancelledError; the run ends all the same", name)
    if cancelled:
        raise asyncio.CancelledError
    try:
        result = task.result()
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it is blamed on it
        raised = error.__cause__ if isinstance(error, _ExitError) else error
        failed = impl.failed(f"raised {described(raised or error)}")
        failed.of_act = raised is not None and raised is current.raised
        raise failed from raised
    if impl.hook == "on_failure" and result is not None:
        from automigrator.failure import Decision  # local: a start without a failure needs none

        if not isinstance(result, Decision):
            raise impl.failed(
                f"returned a {type(result).__qualname__}; "
                "it must return Decision.RETRY, CONTINUE or ABORT, or None to pass"
            )
    return result


async def _work(impl: Impl, arguments: dict[str, Any]) -> object:
    chosen = impl.accepted(arguments)
    result: object

    def called() -> object:
        with _kept_alive():
            return impl.function(**chosen)

    if impl.unlimited or impl.asynchronous:
        result = called()
    else:
        # a thread cannot be cancelled: the second cancellation leaves it behind
        cancels = itertools.count()
        result = await beside(
            in_thread(called),
            on_cancel=lambda thread: next(cancels) and thread.cancel(),
        )
    with _kept_alive():
        return await result if inspect.isawaitable(result) else result


async def _end(
    task: asyncio.Future[Any], current: Call, grace_s: float, given_up: Callable[[], object]
) -> None:
    """Cancel a hook and await it for `grace_s` seconds outside its acts; then leave it behind."""
    current.cancelled = task.cancel()
    left_s = grace_s
    while not task.done() and left_s > 0:
        in_act = current.acts > 0
        await asyncio.wait({task}, timeout=_TICK_S)
        left_s -= 0 if in_act else _TICK_S
    if not task.done():
        task.cancel()
        given_up()


def blame_of(plugin: object) -> str:
    """The name an in-house plugin is blamed by."""
    return plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__qualname__


def described(error: BaseException) -> str:
    """The error's first line, as SQL parameters stand below it, and where it was raised."""
    from automigrator.support.redaction import first_line  # local: for errors alone
    from automigrator.support.secrets import scrubbed

    text = scrubbed(first_line(error))
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text
