"""A database on the side of the target's: fresh, or a copy of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from automigrator.backends.contract.sides import Side
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import databases
from automigrator.backends.postgresql.dump import pipe, programs
from automigrator.backends.postgresql.exclusive import ExclusiveAccess, creating
from automigrator.backends.postgresql.names import name_beside
from automigrator.backends.postgresql.snapshot import by_template_or_dump
from automigrator.backends.postgresql.sql import server_version
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.support.concurrency import shielded

logger = logging.getLogger(__name__)


@asynccontextmanager
async def beside(
    access: ExclusiveAccess,
    stamp: str,
    make: Callable[[ExclusiveAccess, str], Awaitable[None]],
    *,
    prepared: bool = False,
    stop: Callable[[], object] = lambda: None,
) -> AsyncIterator[Side]:
    """Context manager: a database that `make` makes, dropped unless it took the target's place.

    The making is awaited to its end even when it is cancelled; `stop` is called then. `prepared`
    is as in `Access.engine`.
    """
    name = name_beside(access.live, "side", stamp)
    engine = access.access.engine(name, prepared=prepared)
    try:
        await shielded(make(access, name), stop)
        yield Side(engine, access.access.url.set(database=name), name)
    finally:
        await shielded(engine.dispose())
        await shielded(access.discard(name))  # gone, once it has another name


async def fresh(access: ExclusiveAccess, name: str) -> None:
    """Make a database like the target's when it was new."""
    await access.drop(name)
    with creating(name):
        await databases.create(access.admin, name, like=access.live)
    # now, as the migrations are to find its search_path, say
    await access.settle(name, access.live)


async def copied(
    access: ExclusiveAccess, name: str, stoppable: Stoppable, options: SnapshotOptions
) -> None:
    """Copy the target: by template where nobody else is connected, else through a dump.

    A dump disturbs nobody who reads or writes rows. Raises RefusedError with the reasons; nobody
    was disconnected then, unless the options say so.
    """
    live, others = access.live, options.disconnect_others

    async def by_template() -> None:
        await access.copy(live, name, disconnect_others=others, stoppable=stoppable)
        logger.info("database %r was copied by template to %r", live, name)

    async def by_dump() -> None:
        clients = await programs.find(server_version(access.admin)[0], options.binaries)
        await fresh(access, name)
        await stoppable(pipe.copy(access, clients, name))
        logger.info("database %r was copied by pg_dump to %r", live, name)

    await access.ensure_may_create(name)
    await by_template_or_dump(
        options.how, by_template, by_dump, f"database {live!r} cannot be copied"
    )


async def ensure_replaceable(access: ExclusiveAccess, tables: Sequence[VersionTable]) -> None:
    """Raise RefusedError when somebody else's tables would go with the old database."""
    await access.ensure_unshared(_act(access), tables)


async def take_over(
    access: ExclusiveAccess,
    side: Side,
    stamp: str,
    tables: Sequence[VersionTable],
    *,
    set_aside: bool,
    disconnect_others: bool,
) -> str | None:
    """Swap the side database in; says where the old one is, None when it was dropped."""
    admin, live = access.admin, access.live
    await ensure_replaceable(access, tables)
    await access.settle(side.place, live, with_comment=True)
    await side.engine.dispose()
    await access.empty_pools()
    if not disconnect_others:
        await access.ensure_left(_act(access), live, side.place)
    aside = name_beside(live, "purged" if set_aside else "replaced", stamp)
    second = access.second if disconnect_others else None
    await databases.swap(admin, live, side.place, aside, disconnect_by=second)
    if set_aside:
        return aside
    await access.discard(aside)
    return None


def _act(access: ExclusiveAccess) -> str:
    return f"replace database {access.live!r}"
