"""Calls one plugin's implementation of one hook, and blames it for what goes wrong."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

from automigrator.errors import HookError, OverdueError, RefusedError
from automigrator.support.concurrency import in_thread

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


def untold(hook: str, blame: str) -> AbstractContextManager[Callable[[], object]]:
    """Tells nobody of a call."""
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
    if impl.hook == "on_failure" and result is not None:
        from automigrator.failure import Decision  # local: a start without a failure needs none

        if not isinstance(result, Decision):
            raise failed(
                impl,
                f"returned a {type(result).__qualname__}; "
                "it must return Decision.RETRY, CONTINUE or ABORT, or None to pass",
            )
    return result


def blame_of(plugin: object) -> str:
    """The name an in-house plugin is blamed by."""
    return plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__qualname__


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
    from automigrator.support.redaction import first_line  # local: for errors alone
    from automigrator.support.urls import scrubbed

    text = scrubbed(first_line(error))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} ({PurePath(frame.filename).name}:{frame.lineno})"


logger = logging.getLogger(__name__)

T = TypeVar("T")

GRACE_S = 2.0

"""Seconds that an in-house hook has to end after its cancellation."""

_TICK_S = 0.1


class Call:
    """One call of a hook: how many acts on the database it is in, and whether it is to end."""

    acts: int = 0
    cancelled: bool = False
    given_up: bool = False


class Overdue(Exception):
    """Raised when a call exceeded its deadline; `given_up` says that it still runs."""

    def __init__(self, *, given_up: bool) -> None:
        super().__init__()
        self.given_up = given_up


_current: ContextVar[Call | None] = ContextVar("automigrator_call", default=None)


@contextmanager
def acting(act: str) -> Iterator[None]:
    """Within, the hook that runs here is not given up. Raises RefusedError when it is to end."""
    call = _current.get()
    if call is None:
        yield
        return
    if call.cancelled:
        raise RefusedError(f"cannot {act}: the hook was told to end; nothing was changed")
    call.acts += 1
    try:
        yield
    finally:
        call.acts -= 1


async def called(
    name: str,
    work: Coroutine[Any, Any, T],
    deadline_s: float | None,
    grace_s: float | None,
    given_up: Callable[[], object],
) -> T:
    """Await a hook's work, for at most `deadline_s` seconds.

    When it is overdue, or the caller is cancelled, the work is cancelled, and awaited for
    `grace_s` seconds more; then it is left behind, and `given_up` told. None waits as long as it
    takes. Raises Overdue, the error of the work behind it, and what the work raises.
    """
    call = Call()
    token = _current.set(call)
    task = asyncio.create_task(work)
    _current.reset(token)
    try:
        await asyncio.wait({task}, timeout=deadline_s)
    except asyncio.CancelledError:
        await _ended(task, call, grace_s, given_up)
        ended = task.done() and not task.cancelled() and task.exception() is None
        if call.cancelled and ended:  # one that was done already has swallowed nothing
            logger.warning("%s swallowed its CancelledError; the run ends all the same", name)
        raise
    if task.done():
        return task.result()
    if await _ended(task, call, grace_s, given_up):
        raise asyncio.CancelledError
    failed = task.done() and not task.cancelled() and task.exception()
    raise Overdue(given_up=call.given_up) from failed or None


async def in_thread_to_its_end(function: Callable[[], T]) -> T:
    """Run in a thread, which cannot be cancelled; only a second cancellation leaves it behind."""
    thread = asyncio.ensure_future(in_thread(function))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        if not thread.done():
            await asyncio.wait({thread})
        if not thread.cancelled():
            thread.exception()  # retrieved, or asyncio complains about it
        raise


async def _ended(
    task: asyncio.Task[Any], call: Call, grace_s: float | None, given_up: Callable[[], object]
) -> bool:
    """Cancel a hook's task and wait for it; returns whether the caller was cancelled meanwhile."""
    call.cancelled, cancelled, left_s = task.cancel(), False, grace_s
    while not task.done() and (left_s is None or left_s > 0):
        began, acts = time.monotonic(), call.acts > 0
        try:
            await asyncio.wait({task}, timeout=_TICK_S)
        except asyncio.CancelledError:
            cancelled = True
        if left_s is not None and not acts:
            left_s -= time.monotonic() - began
    if task.done():
        _retrieved(task)
    else:
        call.given_up = True
        task.add_done_callback(_retrieved)
        task.cancel()
        given_up()
    return cancelled


def _retrieved(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # or asyncio complains about it where nobody awaits any more
