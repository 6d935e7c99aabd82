"""Runs an env.py along one way, watched, for as long as the lock is held."""

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
from automigrator.migrations.environment import (
    Execution,
    Request,
    adopted,
    execute,
    make_interruptible,
)
from automigrator.migrations.history import History
from automigrator.migrations.isolation import alembic_to_ourselves
from automigrator.migrations.watchdog import Watch
from automigrator.migrations.ways import Way
from automigrator.support.concurrency import in_thread, running_loop
from automigrator.target import Target


def _nothing(*_: object) -> None:
    pass


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
    started: Callable[[str, int, int], None] = _nothing,
    done: Callable[[str, float], None] = _nothing,
    compare: Callable[[MigrationContext], None] | None = None,
    execution: Execution | None = None,
    hold: Hold | None = None,
) -> Execution:
    """Run env.py once along `way`, to `revision`; without `apply` it only looks.

    `started` and `done` are called for each revision, on the event loop; `compare` for each
    context that env.py configures, when nothing is applied. `execution` is filled in, and
    returned. Raises LockLostError when `hold` is lost, and what env.py raises.
    """
    execution = Execution() if execution is None else execution
    watch = Watch(target, backend, hold if apply else None, execution)
    loop = asyncio.get_running_loop()

    def request(connection: Connection | None, expected: Hashable, state: Hashable) -> Request:
        offers: dict[str, Any] = {}
        if connection is not None and "connection" not in target.attributes:
            offers = {"connection": connection, "engine": connection.engine}
        attributes = {"connection": offers[way.offer]} if way.offer in offers else {}
        return Request(
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
            started=_on(loop, started),
            done=_on(loop, done),
            check=watch.check,
            stop=watch.stopping.is_set,
            follow=partial(_limited, backend, watch) if apply else _unwatched,
            compare=compare,
            confirm=_nothing if hold is None else _confirming(hold, loop),
        )

    def prepared(connection: Connection) -> tuple[Hashable, Hashable]:
        identity, state = backend.sessions.identity(connection), backend.sessions.state(connection)
        connection.rollback()
        return identity, state

    def on_loop(connection: Connection) -> None:
        asked = request(connection, *prepared(connection))
        undo = adopted(backend, hold, connection, to_write=apply)
        make_interruptible(backend, execution, connection)
        forget = asked.follow(connection)
        try:
            execute(asked, execution)
        finally:
            forget()
            undo()

    async with alembic_to_ourselves(target):
        async with connected(place.engine, target.connect_timeout) as connection:
            if way.drive == "loop":
                await watch.await_end(connection.run_sync(on_loop))
            else:
                found = await watch.await_end(connection.run_sync(prepared))
        if way.drive == "thread":
            await watch.await_end(in_thread(lambda: execute(request(None, *found), execution)))
    return execution


def _limited(backend: Backend, watch: Watch, connection: Connection) -> Callable[[], None]:
    """Follow a connection's statements, and let the server limit them where it can."""
    unlimited = None
    if (seconds := watch.target.statement_timeout) is not None:
        unlimited = backend.sessions.limit_statements(connection, seconds)
        if unlimited is not None:
            watch.statement_s = None
    forget = watch.follow(connection)

    def undo() -> None:
        forget()
        if unlimited is not None:
            unlimited()

    return undo


def _unwatched(connection: Connection) -> Callable[[], None]:
    return _nothing


def _on(loop: asyncio.AbstractEventLoop, call: Callable[..., None]) -> Callable[..., None]:
    """Call on the event loop, whichever thread a revision runs in."""

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
