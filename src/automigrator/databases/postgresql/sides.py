"""A database on the side of the target's: fresh, or a copy of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.databases.backend import Copying, Side
from automigrator.databases.postgresql import clients, naming, piping, whole
from automigrator.databases.postgresql.scene import (
    Scene,
    copy,
    creating,
    discard,
    drop,
    ensure_may_create,
    settle,
)
from automigrator.databases.postgresql.settings import settings
from automigrator.databases.postgresql.sql import server_version
from automigrator.databases.postgresql.stopping import Stoppable
from automigrator.errors import RefusedError
from automigrator.threads import to_the_end

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
        await whole.create(scene.admin, name, like=scene.live, owner=own.owner)
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
        await stoppable(piping.copy(scene, programs, name))
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
