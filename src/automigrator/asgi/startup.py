"""The start behind the gate: migrate, then start the application; what follows when one fails."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, Protocol

from automigrator.asgi.development import Button, RequestRefusedError
from automigrator.asgi.lifespan import ApplicationError, Lifespan
from automigrator.errors import (
    FollowTimeoutError,
    MigrationError,
    PendingError,
    StoppedError,
)
from automigrator.exits import of_error
from automigrator.printable import escaped_lines
from automigrator.support.concurrency import background, shielded, started
from automigrator.support.loggers import logger_of

if TYPE_CHECKING:
    from automigrator.asgi.progress import Progress
    from automigrator.asgi.protocol import Application
    from automigrator.events.event import Event
    from automigrator.events.stream import Subscription
    from automigrator.failure import Failure
    from automigrator.migrator import Migrator
    from automigrator.runner.modes import Mode

OnFailure = Literal["stay", "exit", "serve"]

BROKEN = 1
"""The exit code of a process whose application has failed to start."""

LAST_WORD_S = 5.0
"""Seconds that a server has to end the process when it is told to, before it is ended."""

_PASSING = frozenset({"unreachable", "auth", "lock-timeout"})
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
        self._lifespan: Lifespan | None = None
        self._task: asyncio.Future[None] | None = None
        self._settled = asyncio.Event()
        self._asked: asyncio.Future[None] | None = None
        """Done when somebody has pressed the button; None while there is none to press."""

    def begin(self, state: MutableMapping[str, Any] | None = None) -> None:
        """Begin in the background, on the loop that runs; once.

        `state`: what the server passes on to every request.
        """
        if self._task is None:
            self._lifespan = Lifespan(self._app, state)
            self._task = started(self._start(self._lifespan))

    def ask(self) -> None:
        """Press the button. Raises RequestRefusedError where there is nothing to run."""
        if self._asked is None or self._asked.done():
            raise RequestRefusedError("there is nothing to run now", HTTPStatus.CONFLICT)
        self._asked.set_result(None)

    async def settled(self, limit_s: float) -> None:
        """Wait for a start that is over soon: until it is, or has something to do, or the limit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._settled.wait()

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
            if not await self._migrated():
                return
            self._progress.enter("application")
            await lifespan.start()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - nobody awaits it
            self._fail(error)
            if isinstance(error, ApplicationError):
                # a server without the gate would not serve it either
                _exit(BROKEN)
            return
        self._opened(lifespan.state)
        self._progress.enter("ready")
        self._settled.set()

    async def _migrated(self) -> bool:
        """Run the migrator until the application may start; False where it may not."""
        while True:
            try:
                await self._run()
                return True
            except StoppedError as error:
                self._fail(error, "stopped")
                return False
            except Exception as error:  # noqa: BLE001 - nobody awaits it
                self._progress.end(self._migrator.report, error)
                if self._on_failure == "serve" and await self._serves(error):
                    logger.critical("the application starts nevertheless: %s", _said(error))
                    return True
                passing = self._on_failure == "stay" and self._retry_every and _passes(error)
                if not passing:
                    self._fail(error)
                    if self._on_failure == "exit":
                        _exit(of_error(error))
                    return False
                self._fail(error, retry_in_s=self._retry_every)
                await asyncio.sleep(self._retry_every or 0)

    async def _run(self) -> None:
        migrator = self._migrator
        only: Mode | None = None
        if self._button is not None and not migrator.is_enabled():
            await self._pressed(self._button)
            # a button must not purge, nor put an older copy back
            migrator, only = migrator.without_recovery(), "migrate"
        self._progress.enter("migrating")
        subscription = migrator.events()
        try:
            async with background(self._follow(subscription), subscription.end):
                report = await migrator.run(mode=only)
        finally:
            self._migrator.report = migrator.report
        self._progress.end(report, None)

    async def _pressed(self, button: Button) -> None:
        """Wait until a person has pressed the button, where anything is pending."""
        plans = await self._migrator.plan()
        if not plans.pending:
            return
        for plan in plans:
            self._progress.expect(plan.name, plan.revisions)
        self._asked = asyncio.get_running_loop().create_future()
        self._progress.enter("pending")
        self._settled.set()
        button.announce(sum(len(plan.revisions) for plan in plans))
        await self._asked

    async def _serves(self, error: Exception) -> bool:
        """Whether the application may start on the databases as they are: none is half done.

        That is looked for anew: a database that cannot be looked at may be.
        """
        if isinstance(error, MigrationError):
            clean = all(each.state == "clean" for each in _last(error))
            if not (clean or self._migrator.allow_partial):
                return False
        elif not isinstance(error, PendingError | FollowTimeoutError):
            return False
        with suppress(Exception):
            status = await self._migrator.check()
            seen = all(each.problem is None or each.problem.kind not in _PASSING for each in status)
            return seen and not any(each.unfinished for each in status)
        return False

    async def _follow(self, subscription: Subscription) -> None:
        async for event in subscription:
            if event.name in _BUSY:
                self._settled.set()
            for each in self._followers:
                each.follow(event)

    def _fail(
        self, error: Exception, phase: Literal["failed", "stopped"] = "failed", **more: Any
    ) -> None:
        self._progress.enter(phase, reason=_said(error).partition("\n")[0], **more)
        self._settled.set()
        if phase == "failed":
            again = f"; it is tried again in {more['retry_in_s']:g} s" if more else ""
            logger.critical("the application does not serve%s: %s", again, _said(error))
            logger.debug("the error behind it", exc_info=error)


def _passes(error: Exception) -> bool:
    """Whether the same run may succeed in a while, though nobody repairs anything."""
    if not isinstance(error, MigrationError):
        return isinstance(error, PendingError | FollowTimeoutError)
    return all(each.kind in _PASSING for each in _last(error))


def _last(error: MigrationError) -> list[Failure]:
    """The last failure of each target that has failed."""
    return [each.failures[-1] for each in error.report.targets if each.outcome == "failed"]


def _said(error: BaseException) -> str:
    return escaped_lines(str(error) or type(error).__name__)


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
