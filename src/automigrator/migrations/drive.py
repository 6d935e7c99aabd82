"""Has an env.py run along one way, watched, for as long as the lock is held.

`environment.execute` runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from automigrator.backends.access import connected
from automigrator.migrations.config import alembic_config
from automigrator.migrations.environment import Execution, Migration, Request, execute
from automigrator.migrations.isolation import alembic_to_ourselves
from automigrator.migrations.watchdog import Watch
from automigrator.migrations.ways import Way
from automigrator.support.concurrency import in_thread, running_loop


def _nothing(*_: object) -> None:
    pass


async def drive(
    migration: Migration,
    way: Way,
    *,
    revision: str,
    apply: bool = False,
    down: bool = False,
    started: Callable[[str, int, int], None] = _nothing,
    done: Callable[[str, float], None] = _nothing,
    compare: Callable[[MigrationContext], None] | None = None,
    execution: Execution | None = None,
) -> Execution:
    """Run env.py once along `way`, to `revision`; without `apply` it only looks.

    `started` and `done` are called for each revision, on the event loop; `compare` for each
    context that env.py configures, when nothing is applied. `execution` is filled in, and
    returned. Raises LockLostError when the lock is lost, and what env.py raises.
    """
    target, backend, _, place, hold = migration
    execution = Execution() if execution is None else execution
    watch = Watch(target, backend, hold if apply else None, execution)
    loop = asyncio.get_running_loop()

    def confirm(progress: str) -> None:
        if hold is not None and running_loop() is loop:
            await_only(hold.confirm(progress))
        elif hold is not None:
            asyncio.run_coroutine_threadsafe(hold.confirm(progress), loop).result()

    def executed(connection: Connection | None, identity: Hashable, state: Hashable) -> None:
        offers = {"connection": connection, "engine": connection and connection.engine}
        attributes = {"connection": offers[way.offer]} if way.offer in offers else {}
        request = Request(
            migration,
            alembic_config(target, way.url, attributes),
            revision,
            connection,
            identity,
            state,
            apply=apply,
            down=down,
            replace=way.replace,
            started=_on(loop, started),
            done=_on(loop, done),
            check=watch.check,
            stop=watch.stopping.is_set,
            follow=partial(watch.follow, by_server=True),
            compare=compare,
            confirm=confirm,
        )
        execute(request, execution)

    def prepared(connection: Connection) -> tuple[Hashable, Hashable]:
        identity, state = backend.sessions.identity(connection), backend.sessions.state(connection)
        connection.rollback()
        return identity, state

    async with alembic_to_ourselves(target):
        async with connected(place.engine, target.connect_timeout) as connection:
            if way.drive == "loop":
                work = connection.run_sync(lambda ours: executed(ours, *prepared(ours)))
                await watch.await_end(work)
            else:
                found = await watch.await_end(connection.run_sync(prepared))
        if way.drive == "thread":
            await watch.await_end(in_thread(lambda: executed(None, *found)), cancellable=False)
    return execution


def _on(loop: asyncio.AbstractEventLoop, call: Callable[..., None]) -> Callable[..., None]:
    """Call on the event loop, whichever thread a revision runs in."""

    def forward(*arguments: Any) -> None:
        if running_loop() is loop:
            call(*arguments)
        else:
            loop.call_soon_threadsafe(call, *arguments)

    return forward
