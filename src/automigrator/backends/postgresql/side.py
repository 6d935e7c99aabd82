"""A database on the side of the target's: fresh, or a copy of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.contract.sides import Side
from automigrator.backends.contract.snapshots import Copying
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import databases, naming
from automigrator.backends.postgresql.dump import pipe
from automigrator.backends.postgresql.dump import programs as clients
from automigrator.backends.postgresql.exclusive import (
    Scene,
    copy,
    creating,
    discard,
    drop,
    ensure_alone,
    ensure_exclusive,
    ensure_may_create,
    settle,
)
from automigrator.backends.postgresql.settings import settings
from automigrator.backends.postgresql.sql import server_version
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError
from automigrator.support.concurrency import to_the_end

logger = logging.getLogger(__name__)

Make = Callable[[Scene, str], Awaitable[None]]

"""Makes the database of this name; awaited to its end even when cancelled."""


@dataclass(frozen=True, slots=True)
class SideDatabase:
    """A database on the side of the target's; `place` is its name."""

    engine: AsyncEngine
    url: URL
    place: str


@asynccontextmanager
async def beside(
    scene: Scene,
    stamp: str,
    make: Make,
    *,
    prepared: bool = False,
    stop: Callable[[], object] = lambda: None,
) -> AsyncIterator[Side]:
    """What `make` makes, dropped afterwards unless it took the target's place.

    `stop` is called when the making is cancelled; `prepared` is as in `Access.engine`.
    """
    name = naming.side_name(scene.live, stamp)
    engine = scene.access.engine(name, prepared=prepared)
    try:
        await to_the_end(make(scene, name), stop)
        yield SideDatabase(engine, scene.access.url.set(database=name), name)
    finally:
        await to_the_end(engine.dispose())
        await to_the_end(discard(scene, name))  # gone, once it has another name


async def fresh(scene: Scene, name: str) -> None:
    """A database like the target's when it was new."""
    own = replace(await settings(scene.admin, scene.live), comment=None)
    await drop(scene, name)
    async with creating(scene, name):
        await databases.create(scene.admin, name, like=scene.live, owner=own.owner)
    # now, as the migrations are to find its search_path, say
    await settle(scene, name, own)


async def copied(
    scene: Scene,
    name: str,
    stoppable: Stoppable,
    *,
    disconnect_others: bool,
    how: Copying,
    binaries: Path | None,
) -> None:
    """A copy of the target: by template where nobody else is connected, else of a dump.

    A dump disturbs nobody who reads or writes rows. Raises RefusedError that says why no copy
    can be made; nobody was disconnected then, unless that was asked for.
    """
    await ensure_may_create(scene, name)
    refused: RefusedError | None = None
    if how != "dump":
        try:
            await _by_template(scene, name, disconnect_others, stoppable)
        except RefusedError as error:
            if how == "template":
                raise
            refused = error
        else:
            logger.info("database %r was copied by template to %r", scene.live, name)
            return
    try:
        programs = await clients.find(server_version(scene.admin)[0], binaries)
        await fresh(scene, name)
        await stoppable(pipe.copy(scene, programs, name))
    except RefusedError as error:
        if refused is None:
            raise
        raise RefusedError(f"database {scene.live!r} cannot be copied: {refused}; {error}") from (
            error
        )
    logger.info("database %r was copied by pg_dump to %r", scene.live, name)


async def _by_template(
    scene: Scene, name: str, disconnect_others: bool, stoppable: Stoppable
) -> None:
    own = replace(await settings(scene.admin, scene.live), comment=None)
    await copy(
        scene, scene.live, name, own, disconnect_others=disconnect_others, stoppable=stoppable
    )


async def ensure_replaceable(scene: Scene, tables: Sequence[VersionTable]) -> None:
    """Raise RefusedError when somebody else's tables would go with the old database."""
    await ensure_exclusive(scene, _act(scene), tables)


async def take_over(
    scene: Scene,
    side: Side,
    stamp: str,
    tables: Sequence[VersionTable],
    *,
    set_aside: bool,
    disconnect_others: bool,
) -> str | None:
    """Swap the side database in; says where the old one is, None when it was dropped."""
    admin, live = scene.admin, scene.live
    act = _act(scene)
    await ensure_exclusive(scene, act, tables)
    await settle(scene, side.place, await settings(admin, live))
    await side.engine.dispose()
    await scene.empty_pools()
    if not disconnect_others:
        await ensure_alone(scene, act, live, side.place)
    name = naming.purged_name if set_aside else naming.replaced_name
    aside = name(live, stamp)
    await databases.swap(
        admin,
        live,
        side.place,
        aside,
        disconnect_others=disconnect_others,
        terminate=scene.second,
    )
    if set_aside:
        return aside
    await discard(scene, aside)
    return None


def _act(scene: Scene) -> str:
    return f"replace database {scene.live!r}"
