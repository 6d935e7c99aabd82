"""Template copies of a target: taken, put back, and what a killed process left of either."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from automigrator.backends.postgresql import databases, journal, lock, naming, reader
from automigrator.backends.postgresql.databases import GRACE_S
from automigrator.backends.postgresql.digests import fingerprint, values
from automigrator.backends.postgresql.exclusive import (
    Scene,
    copy,
    discard,
    drop,
    ensure_alone,
    ensure_nobody_elses,
)
from automigrator.backends.postgresql.journal import Record
from automigrator.backends.postgresql.settings import settings
from automigrator.backends.postgresql.sql import quoted_name, run
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError

logger = logging.getLogger(__name__)

DEAD_LEADER_S = 10.0

"""Seconds in which the sessions of a killed process leave the server."""


async def take(scene: Scene, name: str, record: Record, stoppable: Stoppable) -> None:
    """Copy the target to database `name`, verify the copy, and open the record."""
    own = replace(await settings(scene.admin, scene.live), comment=None)
    others = record.disconnect_others
    await copy(scene, scene.live, name, own, disconnect_others=others, stoppable=stoppable)
    try:
        async with scene.access.connection(name, autocommit=True) as connection:
            found = (await reader.look(connection, record.tables)).sight.all_heads()
        if found != tuple(sorted(record.before)):
            raise RefusedError(
                f"the database is at {', '.join(found) or 'base'}, and this run's snapshot would "
                f"have to be at {', '.join(record.before) or 'base'}; nothing was changed"
            )
        await journal.write(scene.admin, name, record)
    except BaseException:
        await discard(scene, name)
        raise


async def put_back(
    scene: Scene, name: str, stamp: str, record: Record, *, killed: bool = False
) -> tuple[str, ...]:
    """Swap a fresh copy of the snapshot in, and keep what was there; a step may be repeated.

    Returns where it is kept, and what an earlier try has replaced: that nobody has written since
    the copy cannot be proved. Raises RefusedError.
    """
    admin, live = scene.admin, scene.live
    if not await databases.exists(admin, name):
        raise RefusedError(f"the snapshot {name!r} is gone; nothing was changed")
    await ensure_nobody_elses(scene, f"restore database {live!r}", record.tables)
    side, replaced = naming.side_name(live, stamp), naming.replaced_name(live, stamp)
    await journal.write(admin, name, replace(record, state="restoring"))
    if not record.disconnect_others:
        await ensure_alone(
            scene, f"restore database {live!r}", live, grace_s=DEAD_LEADER_S if killed else GRACE_S
        )
    await drop(scene, side)
    earlier = await _kept(scene, replaced, naming.undone_name)
    own = replace(await settings(admin, name), comment=(await settings(admin, live)).comment)
    await copy(scene, name, side, own, disconnect_others=True)
    try:
        await databases.swap(
            admin,
            live,
            side,
            replaced,
            disconnect_others=record.disconnect_others,
            terminate=scene.second,
        )
    except BaseException:
        await discard(scene, side)
        raise
    await journal.write(admin, name, replace(record, state="migrating"))
    places = (earlier, await _kept(scene, replaced, naming.undone_name))
    return tuple(each for each in places if each)


async def _kept(scene: Scene, replaced: str, named: Callable[[str, str], str]) -> str | None:
    """Keep what has been replaced under a name that stays; says under which."""
    if not await databases.exists(scene.admin, replaced):
        return None
    kept = named(scene.live, datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ"))
    await databases.disconnect(scene.admin, replaced)
    rename = f"ALTER DATABASE {quoted_name(replaced)} RENAME TO {quoted_name(kept)}"
    await run(scene.admin, rename)
    return kept


async def recover(scene: Scene, found: Collection[naming.Ours]) -> str | None:
    """Finish or undo what the databases beside the target tell of; says what was done.

    What a leader of another target in the same database is at is left to it.
    """
    admin, own = scene.admin, scene.hold.key
    alone = await lock.only_leader(admin, scene.live)
    kept = {each.name: each.stamp for each in found if each.kind == "snapshot"}
    opened = await journal.read(admin, list(kept)) if kept else {}
    theirs = {each.key for each in opened.values() if each.key is not None} - {own}
    async with contextlib.AsyncExitStack() as locks:
        for key in theirs:
            # or the next start of that target would undo the same at the same time
            if not alone or not await locks.enter_async_context(lock.also_held(admin, key)):
                alone = False
        if theirs:
            opened = await journal.read(admin, list(kept))  # it may just have done so
        if not alone:
            opened = {name: each for name, each in opened.items() if each.key in (own, None)}
        return await _recovered(scene, found, kept, opened, alone=alone)


async def _recovered(
    scene: Scene,
    found: Collection[naming.Ours],
    kept: Mapping[str, str],
    opened: Mapping[str, Record],
    *,
    alone: bool,
) -> str | None:
    admin = scene.admin
    done = None
    for name in sorted(opened, key=lambda each: kept[each], reverse=True)[:1]:
        record, stamp = opened[name], kept[name]
        swapped = naming.replaced_name(scene.live, stamp) in {each.name for each in found}
        if record.state == "restoring" and swapped:
            done = f"the database had been put back from {name} when a process was killed"
        else:
            done = await _needs_nothing(scene, name, record)
        if done is None:
            put_aside = await put_back(scene, name, stamp, record, killed=True)
            done = f"the database was put back from {name} after a process was killed"
            done += f"; what it held until now is in {', '.join(put_aside)}"
    for name, record in opened.items():
        await journal.write(admin, name, replace(record, state="kept"))
    stamps = {kept[name] for name in opened}
    for each in found:
        if not alone and each.stamp not in stamps:
            continue
        if each.kind == "side":
            await drop(scene, each.name)
        elif each.kind == "replaced":
            named = naming.undone_name if each.stamp in stamps else naming.purged_name
            # a restore that was repeated above has kept it
            if kept_as := await _kept(scene, each.name, named):
                told = f"what the database had held until a process was killed is in {kept_as}"
                done = f"{done}; {told}" if done else told
    return done


async def prune(
    scene: Scene, outdated: Collection[str], kind: naming.Kind = "snapshot"
) -> tuple[str, ...]:
    """Drop the databases of a kind with these stamps, but none with an open record."""
    found = [
        each.name
        for each in await naming.ours(scene.admin, scene.live)
        if each.kind == kind and each.stamp in outdated
    ]
    opened = await journal.read(scene.admin, found) if found and kind == "snapshot" else {}
    dropped = []
    for name in found:
        if name in opened:
            continue
        try:
            await databases.drop(scene.admin, name)
        except RefusedError as error:
            logger.warning("the %s database stays: %s", kind, error)
        else:
            dropped.append(name)
    return tuple(dropped)


async def _needs_nothing(scene: Scene, name: str, record: Record) -> str | None:
    """What to say of a killed migration that had ended, or was rolled back to where it began.

    Restoring would be idempotent, and would lose what an application wrote since.
    """
    async with scene.access.connection(autocommit=True) as live:
        heads = (await reader.look(live, record.tables)).sight.all_heads()
        if heads == tuple(sorted(record.after)):
            return f"a migration that was killed had ended at {', '.join(heads) or 'base'}"
        if heads != tuple(sorted(record.before)):
            return None
        async with scene.access.connection(name, autocommit=True) as copied:
            if await fingerprint(live) != await fingerprint(copied):
                return None
            # a row that is not as it was may be the migration's
            if not record.atomic:
                found = await values(live)
                if found is None or found != await values(copied):
                    return None
    return "a migration that was killed had changed nothing"
