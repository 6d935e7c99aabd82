"""How a fresh database on the side takes the target's place."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from automigrator.databases.backend import Side, VersionTable
from automigrator.databases.postgresql import naming, whole
from automigrator.databases.postgresql.scene import (
    Scene,
    discard,
    ensure_alone,
    ensure_exclusive,
    settle,
)
from automigrator.databases.postgresql.settings import settings

logger = logging.getLogger(__name__)


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
