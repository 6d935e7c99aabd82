"""The start behind the gate: migrate, then start the application; what follows when one fails."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, MutableMapping
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, Protocol

from automigrator.asgi.development import Button, RequestRefusedError
from automigrator.asgi.lifespan import ApplicationError, Lifespan
from automigrator.errors import (
    AutomigratorError,
    FollowTimeoutError,
    MigrationError,
    PendingError,
    StoppedError,
)
from automigrator.exits import of_error
from automigrator.runner import modes
from automigrator.runner.signals import until_signalled
from automigrator.support.concurrency import background, shielded, started
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import hide_secrets, said
from automigrator.target import passwords_of

if TYPE_CHECKING:
    from automigrator.asgi.progress import Progress
    from automigrator.events.event import Event
    from automigrator.events.stream import Subscription
    from automigrator.failure import Failure
    from automigrator.migrator import Migrator
    from automigrator.status import Status
    from automigrator.support.asgi import Application

OnFailure = Literal["stay", "exit", "serve"]

BROKEN = 3
"""The exit code of a process whose application has failed to start: uvicorn's and gunicorn's, which
do not start such a worker again."""

LAST_WORD_S = 5.0
"""Seconds that a server has to end the process when it is told to, before it is ended."""

_UNSEEN = frozenset({"unreachable", "auth"})
"""Kinds of failures after which nobody knows how the database stands."""

_PASSING = _UNSEEN | {"lock-timeout"}
"""Kinds of failures that say nothing about the revisions, and may be over soon."""

_BUSY = frozenset({"attempt-started", "waiting", "create-started", "repair-started"})
"""Events of a run that has something to do, and will take its time."""

logger = logger_of("automigrator.asgi")


class Follower(Protocol):
    """Hears every event of a run."""

    def follow(self, event: Event) -> None:
        """Take note of one event."""


class Startup:
    """One start of an application behind the gate.

    `opened` is called when the application may serve. `followers` hear every event. With a
    `button` a person is asked before anything is migrated that nothing else has asked for.
    """

    def __init__(
        self,
        app: Application,
        migrator: Migrator,
        progress: Progress,
        *,
        followers: tuple[Follower, ...],
        on_failure: OnFailure,
        retry_every: float | None,
        button: Button | None,
        opened: Callable[[MutableMapping[str, Any]], None],
    ) -> None:
        self._app, self._migrator, self._progress = app, migrator, progress
        self._followers = (progress, *followers)
        self._on_failure, self._retry_every = on_failure, retry_every
        self._button, self._opened = button, opened
        self.bound = False
        """Whether the server serves: it is not told of an application that does not start, so that
        ends the process."""
        self._lifespan: Lifespan | None = None
        self._task: asyncio.Future[None] | None = None
        self._settled = asyncio.Event()
        self._error: ApplicationError | None = None
        self._asked: asyncio.Future[None] | None = None
        """Done when somebody has pressed the button; None while there is none to press."""

    def begin(self, state: MutableMapping[str, Any] | None = None) -> bool:
        """Begin in the background, on the loop that runs; False where it has begun already.

        `state`: what the server passes on to every request.
        """
        if self._task is not None:
            return False
        self._lifespan = Lifespan(self._app, state)
        self._task = started(self._start(self._lifespan))
        return True

    def ask(self) -> None:
        """Press the button. Raises RequestRefusedError where there is nothing to run."""
        if self._asked is None or self._asked.done():
            raise RequestRefusedError("there is nothing to run now", HTTPStatus.CONFLICT)
        self._asked.set_result(None)

    async def settled(self, limit_s: float) -> ApplicationError | None:
        """Wait for a start that is over soon: until it is, or has something to do, or the limit.

        Returns the error of an application that has failed to start by then.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._settled.wait()
        return self._error

    async def end(self) -> None:
        """Stop what is under way, or end the application. Raises ApplicationError."""
        if self._task is None or self._lifespan is None:
            return
        self._task.cancel()
        await shielded(asyncio.wait({self._task}))
        self._progress.enter("stopped")
        await self._lifespan.end()

    async def _start(self, lifespan: Lifespan) -> None:
        try:
            await self._migrated()
            self._progress.enter("application")
            await self._stoppable(lifespan.start(), "while the application started")
        except StoppedError as error:
            return self._fail(error, "stopped")
        except ApplicationError as error:
            self._error = error
            self._fail(error)
            # in another thread the process is somebody else's: a test's, say
            if self.bound and threading.current_thread() is threading.main_thread():
                _exit(BROKEN)
            return
        except Exception as error:  # noqa: BLE001 - nobody awaits it
            return self._fail(error)
        self._opened(lifespan.state)
        self._progress.enter("ready")
        self._settled.set()

    async def _migrated(self) -> None:
        """Run the migrator until the application may start. Raises StoppedError."""
        while True:
            try:
                return await self._run()
            except StoppedError:
                raise
            except Exception as error:  # noqa: BLE001 - nobody awaits it
                self._progress.end(self._migrator.report, error)
                if self._on_failure == "serve" and await self._serves(error):
                    return self._log("the application starts nevertheless", error)
                exits = self._on_failure == "exit"
                again = not exits and self._passes(error)
                # before it is told: what somebody repairs then is a change
                before = None if again or exits else await self._seen()
                self._fail(error, retry_in_s=self._retry_every if again else None)
                if exits:
                    _exit(of_error(error))
            if again or exits:
                pause = _pause(self._retry_every if again else None)
            else:
                pause = self._repaired(before)
            await self._stoppable(pause, "after it had failed")

    async def _repaired(self, before: Status | None) -> None:
        """Look, now and then, until the databases lack nothing, or somebody has repaired one.

        It is at other heads than `before` then, or its failed starts were forgotten. Nothing is
        tried meanwhile.
        """
        while True:
            await _pause(self._retry_every)
            if (seen := await self._seen()) is None:
                continue
            if seen.current or (before is not None and _was_changed(before, seen)):
                return
            before = seen

    async def _seen(self) -> Status | None:
        """How the databases stand; None where that cannot be seen."""
        with suppress(Exception):
            status = await self._migrator.check()
            if all(each.problem is None or each.problem.kind not in _PASSING for each in status):
                return status
        return None

    async def _run(self) -> None:
        migrator = self._migrator
        only: modes.Mode | None = None
        if self._button is not None and not migrator.is_enabled():
            only = "migrate" if await self._pressed(self._button) else "check"
            # a button must not purge, nor put an older copy back
            migrator = migrator.without_recovery()
        self._progress.enter("migrating")
        subscription = migrator.events()
        try:
            async with background(self._follow(subscription), subscription.end):
                report = await migrator.run(mode=only)
        finally:
            self._migrator.report = migrator.report
        self._progress.end(report, None)

    async def _pressed(self, button: Button) -> bool:
        """Wait until a person has pressed the button; False where there is nothing for it to do.

        What a killed process has left is undone only by a run that was asked for in earnest.
        """
        plans, status = await self._migrator.plan(), await self._migrator.check()
        if not plans.pending or any(each.unfinished for each in status):
            return False
        for plan in plans:
            self._progress.expect(plan.name, plan.revisions)
        self._asked = asyncio.get_running_loop().create_future()
        self._progress.enter("pending")
        self._settled.set()
        button.announce(sum(len(plan.revisions) for plan in plans))
        await self._stoppable(_of(self._asked), "while migrations were pending")
        return True

    async def _stoppable(self, work: Coroutine[Any, Any, None], when: str) -> None:
        """Await what is no run, which listens itself; a signal ends it, and with it the streams.

        A server that is told to end waits for them, and tells nobody. Raises StoppedError.
        """
        if not self._migrator.stop_on_signals:
            return await work
        try:
            await until_signalled(work, lambda: "")
        except StoppedError as error:
            name = signal.Signals(error.signal).name
            raise StoppedError(f"stopped by {name} {when}", error.signal) from None

    async def _serves(self, error: Exception) -> bool:
        """Whether the application may start on the databases as they are: none is half done.

        That is looked for anew: a database that cannot be looked at may be.
        """
        if isinstance(error, MigrationError):
            last = _last(error)
            clean = all(each.state == "clean" for each in last) or self._migrator.allow_partial
            if not clean or any(each.kind in _UNSEEN for each in last):
                return False
        elif not isinstance(error, PendingError | FollowTimeoutError):
            return False
        status = await self._seen()
        return status is not None and not any(each.unfinished for each in status)

    async def _follow(self, subscription: Subscription) -> None:
        async for event in subscription:
            if event.name in _BUSY:
                self._settled.set()
            for each in self._followers:
                each.follow(event)

    def _passes(self, error: Exception) -> bool:
        """Whether the same run may succeed in a while, though nobody repairs anything here."""
        if not isinstance(error, MigrationError):
            return isinstance(error, PendingError | FollowTimeoutError)
        # one that only looks finds what others have repaired
        looks = modes.resolve(self._migrator.mode) in ("check", "wait")
        return looks or all(each.kind in _PASSING for each in _last(error))

    def _fail(
        self,
        error: Exception,
        phase: Literal["failed", "stopped"] = "failed",
        *,
        retry_in_s: float | None = None,
    ) -> None:
        # shown from here on, with what is behind it
        hide_secrets(error, [each for t in self._migrator.targets for each in passwords_of(t)])
        reason = said(error, ()).partition("\n")[0]
        self._progress.enter(phase, reason=reason, retry_in_s=retry_in_s)
        self._settled.set()
        if phase == "failed":
            again = "" if retry_in_s is None else f"; it is tried again in {retry_in_s:g} s"
            self._log(f"the application does not serve{again}", error)

    def _log(self, what: str, error: Exception) -> None:
        """Tell an error once; with a traceback, where its text is not all that is needed."""
        text: object = error
        match error:
            case ApplicationError():
                behind = error.__cause__
            case AutomigratorError():
                behind = None
            case _:
                text, behind = said(error, ()), error
        logger.critical("automigrator: %s: %s", what, text, exc_info=behind)
        if behind is None:
            logger.debug("the error behind it", exc_info=error)


def _last(error: MigrationError) -> list[Failure]:
    """The last failure of each target that has failed."""
    return [each.failures[-1] for each in error.report.targets if each.outcome == "failed"]


def _was_changed(before: Status, after: Status) -> bool:
    """Whether somebody has migrated or downgraded a database, or cleared its failed starts."""
    return any(
        new.heads != old.heads or (new.failed_starts < old.failed_starts and not new.problem)
        for old, new in zip(before, after, strict=True)
    )


async def _pause(seconds: float | None) -> None:
    """Wait so long; None: until this is cancelled."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


async def _of(answer: asyncio.Future[None]) -> None:
    await answer


def _exit(code: int) -> None:
    """End the process from its event loop, whatever the server makes of that."""

    def end() -> None:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(LAST_WORD_S, end)
    timer.daemon = True
    timer.start()
    asyncio.get_running_loop().call_soon(sys.exit, code)
