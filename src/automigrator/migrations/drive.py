"""Drive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from automigrator.backends.access import connected
from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.values import Place
from automigrator.migrations.config import alembic_config
from automigrator.migrations.environment import Execution, Request, adopted, execute
from automigrator.migrations.history import History
from automigrator.migrations.isolation import alembic_to_ourselves
from automigrator.migrations.watchdog import Watch, to_its_end, until_out_of_reach
from automigrator.migrations.ways import Way
from automigrator.support.concurrency import in_thread, running_loop
from automigrator.target import Target


async def drive(
    target: Target,
    backend: Backend,
    history: History,
    place: Place,
    way: Way,
    *,
    revision: str,
    apply: bool = False,
    down: bool = False,
    started: Callable[[str, int, int], None] | None = None,
    done: Callable[[str, float], None] | None = None,
    compare: Callable[[MigrationContext], None] | None = None,
    execution: Execution | None = None,
    hold: Hold | None = None,
) -> Execution:
    """Run env.py once along `way`, as long as `hold` is held.

    `compare` is called with each context that env.py configures, when nothing is applied. What
    env.py raises passes through; so does a cancellation.
    """
    execution = Execution() if execution is None else execution
    watch = Watch(execution, target.statement_timeout, target.revision_timeout)
    loop = asyncio.get_running_loop()
    until_silent = partial(until_out_of_reach, backend, target.connect_timeout)
    alive = hold.until_lost if hold is not None and apply else until_silent

    def request(connection: Connection | None, expected: Hashable, state: Hashable) -> Request:
        attributes: dict[str, Any] = {}
        if "connection" not in target.attributes and connection is not None:
            offers = {"connection": connection, "engine": connection.engine}
            if way.offer in offers:
                attributes["connection"] = offers[way.offer]
        asked = Request(
            alembic_config(target, way.url, attributes),
            history,
            backend,
            revision,
            expected,
            connection,
            hold,
            state,
            apply=apply,
            down=down,
            replace=way.replace,
            check=watch.check,
            stop=watch.stopping.is_set,
            compare=compare,
        )
        if apply:
            seconds = target.statement_timeout
            asked.follow = lambda connection: _limited(backend, watch, connection, seconds)
        if started is not None:
            asked.started = _on(loop, started)
        if done is not None:
            asked.done = _on(loop, done)
        if hold is not None:
            asked.confirm = _confirming(hold, loop)
        return asked

    def prepared(connection: Connection) -> tuple[Hashable, Hashable]:
        identity, state = (
            backend.sessions.identity(connection),
            backend.sessions.state(connection),
        )
        connection.rollback()
        return identity, state

    def on_loop(connection: Connection) -> None:
        identity, state = prepared(connection)
        undo = adopted(backend, hold, connection, to_write=apply)
        interrupt = backend.sessions.interrupter(connection)
        if interrupt is not None:
            execution.interrupts.append(interrupt)
        asked = request(connection, identity, state)
        forget = asked.follow(connection)
        try:
            execute(asked, execution)
        finally:
            forget()
            undo()

    try:
        async with alembic_to_ourselves(target):
            if way.drive == "loop":
                async with connected(place.engine, target.connect_timeout) as connection:
                    await to_its_end(connection.run_sync(on_loop), watch, alive)
            else:
                async with connected(place.engine, target.connect_timeout) as connection:
                    asked = connection.run_sync(prepared)
                    identity, state = await to_its_end(asked, watch, alive)
                thread = in_thread(lambda: execute(request(None, identity, state), execution))
                await to_its_end(thread, watch, alive)
    except Exception as error:
        # what was told to end may trip over what it cleans up
        if watch.reached is None:
            raise
        raise watch.reached from error
    return execution


def _limited(
    backend: Backend, watch: Watch, connection: Connection, seconds: float | None
) -> Callable[[], None]:
    """Follow a connection's statements, and let the server limit them where it can."""
    unlimited = None
    if seconds is not None:
        unlimited = backend.sessions.limit_statements(connection, seconds)
        if unlimited is not None:
            watch.statement_s = None
    forget = watch.follow(connection)

    def undo() -> None:
        forget()
        if unlimited is not None:
            unlimited()

    return undo


def _on(loop: asyncio.AbstractEventLoop, call: Callable[..., None]) -> Callable[..., None]:
    """Progress arrives on the loop, whichever thread a revision runs in."""

    def forward(*arguments: Any) -> None:
        if running_loop() is loop:
            call(*arguments)
        else:
            loop.call_soon_threadsafe(call, *arguments)

    return forward


def _confirming(hold: Hold, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
    """Confirm the lock from within env.py, on the loop's own thread or on another."""

    def confirm(progress: str) -> None:
        if running_loop() is loop:
            await_only(hold.confirm(progress))
        else:
            asyncio.run_coroutine_threadsafe(hold.confirm(progress), loop).result()

    return confirm
