"""Runs the lifespan of an application when its databases are ready, not when the server asks."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from automigrator.errors import AutomigratorError
from automigrator.printable import in_a_line
from automigrator.support.asgi import Application, Message
from automigrator.support.concurrency import error_of, shielded, started
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import hide_secrets, said

logger = logger_of("automigrator.asgi")


class ApplicationError(AutomigratorError):
    """Raised when the application itself has failed to start, or to end."""


class Lifespan:
    """The lifespan of one application.

    `state`: what it may fill for its requests; None where the server has no such thing.
    """

    def __init__(self, app: Application, state: MutableMapping[str, Any] | None) -> None:
        self._app = app
        self._scope: dict[str, Any] = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": {} if state is None else state,
        }
        self._received, self._ending = False, asyncio.Event()
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._task: asyncio.Future[None] | None = None

    @property
    def state(self) -> MutableMapping[str, Any]:
        """What the application has filled for its requests."""
        state: MutableMapping[str, Any] = self._scope["state"]
        return state

    async def start(self) -> None:
        """Start the application. Raises ApplicationError.

        One that raises before it asks for its first event has no lifespan, and that is all right.
        """
        answer = self._answer("startup")
        self._task = started(self._called())
        await self._until(answer, "start")
        self._task.add_done_callback(self._over)

    async def end(self) -> None:
        """End the application, where it has started. Raises ApplicationError."""
        if self._task is None or self._task.done():
            return
        answer = self._answer("shutdown")
        self._ending.set()
        await self._until(answer, "end")

    async def _until(self, answer: asyncio.Future[Message], what: str) -> None:
        task = self._task
        assert task is not None
        both: set[asyncio.Future[Any]] = {answer, task}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await shielded(asyncio.wait({task}))
            raise
        if answer.done():
            message = answer.result()
            if not message["type"].endswith(".failed"):
                return
            task.cancel()  # one that has raised is done by now
            await shielded(asyncio.wait({task}))
            error = error_of(task)
            text = in_a_line(message.get("message") or "") or "it does not say why"
        else:
            answer.cancel()
            error, text = error_of(task), ""
            if error is None or not self._received:
                return
        # frameworks send a whole traceback, and raise what it is about
        text = text if error is None else said(error, ())
        raise ApplicationError(f"the application did not {what}: {text}") from error

    async def _called(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    def _over(self, task: asyncio.Future[None]) -> None:
        """Tell what nobody else does: a server does not look at a lifespan while it serves."""
        if not self._ending.is_set() and (error := error_of(task)) is not None:
            hide_secrets(error, ())
            logger.error("the lifespan of the application has ended", exc_info=error)

    def _answer(self, event: str) -> asyncio.Future[Message]:
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        for way in ("complete", "failed"):
            self._answers[f"lifespan.{event}.{way}"] = answer
        return answer

    async def _receive(self) -> Message:
        if not self._received:
            self._received = True
            return {"type": "lifespan.startup"}
        await self._ending.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        answer = self._answers.get(message["type"])
        if answer is not None and not answer.done():
            answer.set_result(message)
