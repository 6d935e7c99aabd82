"""Has an env.py run along one way, in a thread, watched, for as long as the lock is held.

`environment.execute` runs it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Hashable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection

from automigrator.backends.access import connected
from automigrator.migrations.config import alembic_config
from automigrator.migrations.environment import execute
from automigrator.migrations.execution import Execution, Migration, Request
from automigrator.migrations.isolation import alembic_to_ourselves
from automigrator.migrations.watchdog import Watch
from automigrator.migrations.ways import Way
from automigrator.support.bridge import Bridge
from automigrator.support.concurrency import in_thread


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
    execution = Execution() if execution is None else execution
    once = partial(_drive, migration, way, execution, revision, apply, down, started, done, compare)
    eases = migration.backend.sessions.eases
    try:
        await once()
    except Exception as error:
        if not apply or not eases(error):
            raise
    else:
        if execution.error is None or not apply or not eases(execution.error):
            return execution
    execution.begin_anew()
    await once()
    return execution


async def _drive(
    migration: Migration,
    way: Way,
    execution: Execution,
    revision: str,
    apply: bool,
    down: bool,
    started: Callable[[str, int, int], None],
    done: Callable[[str, float], None],
    compare: Callable[[MigrationContext], None] | None,
) -> None:
    target, backend, _, place, hold = migration
    watch = Watch(target, backend, hold if apply else None, execution)
    loop = asyncio.get_running_loop()
    awaited, told = Bridge(loop), partial(_told, loop)

    def confirm(progress: str) -> None:
        if hold is not None:
            Bridge(loop).result(hold.confirm(progress))

    def executed(
        connection: Connection | None, identity: Hashable, weaker: Callable[[Connection], str]
    ) -> None:
        offers = {"connection": connection, "engine": connection and connection.engine}
        attributes = {"connection": offers[way.offer]} if way.offer in offers else {}
        request = Request(
            migration,
            alembic_config(target, way.url, attributes, down_to=revision if down else None),
            revision,
            connection,
            identity,
            weaker,
            loop,
            apply=apply,
            down=down,
            started=partial(told, started),
            done=partial(told, done),
            check=watch.check,
            stop=watch.stopping.is_set,
            follow=partial(watch.follow, by_server=True),
            compare=compare,
            confirm=confirm,
        )
        execute(request, execution)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(alembic_to_ourselves(target))
        identity = await watch.await_end(backend.identity(place), cancellable=True)
        weaker = await watch.await_end(backend.proving(), cancellable=True)
        ours: Connection | None = None
        if way.ours:
            making = connected(place.engine, target.connect_timeout)
            connection = await stack.enter_async_context(making)
            ours = connection.sync_connection
            execution.cancel = awaited.cancel
        work = partial(executed, ours, identity, weaker)
        run = awaited.run if way.ours else _with_current_loop
        await watch.await_end(in_thread(partial(run, work)))


def _with_current_loop(work: Callable[[], None]) -> None:
    """Give the thread a current event loop where a main thread has one: before Python 3.14."""
    if sys.version_info >= (3, 14):
        return work()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        work()
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _told(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> None:
    """Call on the event loop, from the thread that a revision runs in."""
    loop.call_soon_threadsafe(call, *arguments)
