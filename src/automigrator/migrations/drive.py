"""Has an env.py run along one way, in a thread, watched, for as long as the lock is held.

`environment.execute` runs it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Hashable
from contextlib import AsyncExitStack, suppress
from functools import partial

from sqlalchemy.engine import Connection

from automigrator.backends.access import connected
from automigrator.backends.contract.backend import Weaker
from automigrator.backends.contract.snapshots import Snapshots
from automigrator.errors import EnvError
from automigrator.migrations.config import alembic_config
from automigrator.migrations.environment import execute
from automigrator.migrations.execution import Command, Execution, Migration, Request
from automigrator.migrations.isolation import alembic_to_ourselves
from automigrator.migrations.runs.inside import NeedsToBeAlone
from automigrator.migrations.watchdog import Watch
from automigrator.migrations.ways import Way
from automigrator.support.bridge import Bridge
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of

logger = logger_of(__name__)


async def drive(
    migration: Migration, way: Way, command: Command, execution: Execution | None = None
) -> Execution:
    """Run env.py once along `way`; `execution` is filled in, and returned.

    Raises LockLostError when the lock is lost, and what env.py raises.
    """
    execution = Execution() if execution is None else execution
    try:
        return await _eased(migration, way, command, execution, alone=False)
    except NeedsToBeAlone as need:
        observed = execution.observed
        if observed.torn or observed.unsettled:
            raise EnvError(
                f"{migration.target.name}: its env.py ran beside others and must be alone: {need}. "
                "A part of the revision that ran may stay; the next run of it is alone"
            ) from need
        logger.info("%s: its env.py is run again, alone: %s", migration.target.name, need)
    execution.begin_anew()
    return await _eased(migration, way, command, execution, alone=True)


async def _eased(
    migration: Migration, way: Way, command: Command, execution: Execution, *, alone: bool
) -> Execution:
    """Run env.py, and once more where the database asks for that to be done another way."""
    eases = migration.backend.sessions.eases
    try:
        await _drive(migration, way, command, execution, alone=alone)
    except Exception as error:
        if not command.apply or not eases(error):
            raise
    else:
        if execution.error is None or not command.apply or not eases(execution.error):
            return execution
    execution.begin_anew()
    await _drive(migration, way, command, execution, alone=alone)
    return execution


async def _drive(
    migration: Migration, way: Way, command: Command, execution: Execution, *, alone: bool
) -> None:
    target, backend, _, place, hold = migration
    watch = Watch(
        target, backend, hold if command.apply else None, execution, progress=command.progress
    )
    loop = asyncio.get_running_loop()
    awaited = Bridge(loop)

    def confirm(progress: str) -> None:
        if hold is not None:
            Bridge(loop).result(hold.confirm(progress))

    def untouched() -> Snapshots | None:
        """The snapshots with an open journal, which tells that nothing was committed yet."""
        return hold.snapshots if hold is not None and command.apply and hold.untouched else None

    def began(connection: Connection) -> None:
        if (snapshots := untouched()) is None:
            return
        name = None
        with suppress(Exception):  # a transaction that cannot be asked is not committed either
            name = backend.sessions.transaction(connection)
        if name is not None:
            Bridge(loop).result(snapshots.began(name))

    def committing() -> None:
        if (snapshots := untouched()) is not None:
            Bridge(loop).result(snapshots.committing())

    def executed(connection: Connection | None, identity: Hashable, weaker: Weaker) -> None:
        offers = {"connection": connection, "engine": connection and connection.engine}
        attributes = {"connection": offers[way.offer]} if way.offer in offers else {}
        request = Request(
            migration,
            command,
            alembic_config(
                target,
                way.url,
                attributes,
                down_to=command.revision if command.down else None,
            ),
            connection,
            identity,
            weaker,
            loop,
            check=watch.check,
            stop=watch.stopping.is_set,
            follow=partial(watch.follow, by_server=True),
            tell=watch.tell,
            confirm=confirm,
            began=began,
            committing=committing,
        )
        execute(request, execution)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(alembic_to_ourselves(target, alone=alone))
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
