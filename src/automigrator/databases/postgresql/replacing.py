"""A fresh database on the side, and how it takes the target's place."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.databases.backend import Side, VersionTable
from automigrator.databases.postgresql import naming, whole
from automigrator.databases.postgresql.scene import (
    Scene,
    creating,
    discard,
    drop,
    ensure_alone,
    ensure_exclusive,
    settle,
)
from automigrator.databases.postgresql.settings import settings
from automigrator.threads import to_the_end

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SideDatabase:
    """A fresh database beside the target's; `place` is its name."""

    engine: AsyncEngine
    url: URL
    place: str


async def ensure_replaceable(scene: Scene, tables: Sequence[VersionTable]) -> None:
    """Raise RefusedError when somebody else's tables would go with the old database."""
    await ensure_exclusive(scene, _act(scene), tables)


@asynccontextmanager
async def beside(scene: Scene, stamp: str) -> AsyncIterator[Side]:
    """A database like the target's when it was new, dropped unless it took the target's place."""
    name = naming.side_name(scene.live, stamp)
    engine = scene.access.engine(name)
    try:
        await to_the_end(_make(scene, name))
        yield SideDatabase(engine, scene.access.url.set(database=name), name)
    finally:
        await to_the_end(engine.dispose())
        await to_the_end(discard(scene, name))  # gone, once it has another name


async def _make(scene: Scene, name: str) -> None:
    own = replace(await settings(scene.admin, scene.live), comment=None)
    await drop(scene, name)
    async with creating(scene, name):
        await whole.create(scene.admin, name, like=scene.live, owner=own.owner)
    # now, as the migrations are to find its search_path, say
    await settle(scene, name, own)


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
    await whole.swap(
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
