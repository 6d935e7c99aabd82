"""Databases beside a target as its snapshots, one of the two ways to make one.

Nothing here may be cancelled. Every act raises RefusedError in words.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack

from automigrator.backends.contract.journal import Repairs, Replaced, counted, taken_over, undone
from automigrator.backends.postgresql import databases, digests, journal
from automigrator.backends.postgresql.databases import DEAD_LEADER_S, GRACE_S
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.journal import CopyEntry
from automigrator.backends.postgresql.locking import advisory
from automigrator.backends.postgresql.names import Kind, Ours, ensure_ours, name_beside, ours
from automigrator.backends.postgresql.verdict import needs_nothing, settled, was_committed
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError
from automigrator.retention import stamp

_BY_HAND = (
    'To restore it by hand, while nobody is connected: ALTER DATABASE "{live}" RENAME TO '
    '"{live}_replaced"; ALTER DATABASE "{name}" RENAME TO "{live}"; COMMENT ON DATABASE "{live}" '
    "IS NULL"
)


async def take(
    access: ExclusiveAccess, stamp: str, entry: CopyEntry, stoppable: Stoppable
) -> tuple[str, CopyEntry]:
    """Copy the target to a new database, verify the copy, and open the journal with `entry`."""
    live = access.live
    entry = entry._replace(key=access.hold.key, oid=await databases.oid(access.admin, live))
    name = name_beside(live, "snapshot", stamp)
    await access.ensure_may_create(name)
    await access.ensure_unshared(f"copy database {live!r}", entry.tables)
    await access.ensure_not_replicated(f"copy database {live!r} to restore it")
    await access.copy(live, name, disconnect_others=entry.disconnect_others, stoppable=stoppable)
    try:
        async with access.connection(name) as connection:
            await access.ensure_at(connection, entry.before, entry.tables)
        await journal.write(access.admin, name, entry)
    except BaseException:
        await access.discard(name)
        raise
    return name, entry


async def recovered(access: ExclusiveAccess, ensure_apart: Callable[[], object]) -> str | None:
    """Finish or undo what the databases beside the target tell of; says what was done.

    `ensure_apart` raises RefusedError where the lock's session is not apart from the target.
    """
    found = await ours(access.admin, access.live)
    copies = {each.name: each.stamp for each in found if each.kind == "snapshot"}
    try:
        ensure_apart()
    except RefusedError as error:
        opened = await journal.read(access.admin, list(copies))
        if not opened:
            return None
        raise RefusedError(
            "an earlier migration has to be undone (it was killed, or its snapshot was not put "
            f"back), and the database to be put back from {', '.join(opened)}: {error}"
        ) from error
    return await _recovered(access, found, copies)


async def put_back(
    access: ExclusiveAccess, name: str, stamp: str, entry: CopyEntry, *, killed: bool = False
) -> tuple[tuple[str, ...], CopyEntry]:
    """Swap a fresh copy of the snapshot in, and keep what was there; a step may be repeated.

    Returns where that is kept, and what an earlier try has replaced: that nobody has written
    since the copy cannot be proved. And the entry that is written now. Raises RefusedError.
    """
    admin, live = access.admin, access.live
    act = f"restore database {live!r}"
    if not await databases.exists(admin, name):
        raise RefusedError(f"the snapshot {name!r} is gone; nothing was changed")
    await access.ensure_unshared(act, entry.tables, own_anywhere=True)
    await access.ensure_not_replicated(act)
    side, replaced = name_beside(live, "side", stamp), name_beside(live, "replaced", stamp)
    for each in (side, replaced):
        await ensure_ours(admin, live, each)
    await journal.write(admin, name, entry._replace(state="restoring"))
    if not entry.disconnect_others:
        await access.ensure_left(act, live, grace_s=DEAD_LEADER_S if killed else GRACE_S)
    await access.drop(side)
    earlier = await _kept(access, replaced, "undone")
    await access.copy(name, side, disconnect_others=True, with_comment=True)
    try:
        second = access.second if entry.disconnect_others else None
        await databases.swap(admin, live, side, replaced, disconnect_by=second)
    except BaseException:
        await access.discard(side)
        raise
    known, by_hand = entry.oid is not None, entry.by_hand
    kept = await _kept(access, replaced, "undone") if by_hand else None
    entry = entry._replace(
        state="kept" if by_hand else "migrating",
        committed=False if entry.steps is not None else None,
        transactions=(),
        oid=await databases.oid(admin, live) if known else None,
    )
    await journal.write(admin, name, entry)
    places = (earlier, kept or await _kept(access, replaced, "undone"))
    return tuple(each for each in places if each), entry


async def differs(access: ExclusiveAccess, name: str, entry: CopyEntry) -> bool:
    """Compare the live database with its copy; rows only where the server knows of a commit."""
    async with access.connection() as live, access.connection(name) as copy:
        if await digests.catalog(live) != await digests.catalog(copy):
            return True
        if not await was_committed(live, entry):
            return False
        found = await digests.values(live)
        return found is not None and found != await digests.values(copy)


async def _kept(access: ExclusiveAccess, replaced: str, kind: Kind) -> str | None:
    """Keep a database that was replaced under a name that stays; says under which."""
    if not await databases.exists(access.admin, replaced):
        return None
    await ensure_ours(access.admin, access.live, replaced)
    kept = name_beside(access.live, kind, stamp())
    await databases.disconnect(access.admin, replaced)
    await databases.rename(access.admin, replaced, kept)
    return kept


async def _recovered(
    access: ExclusiveAccess, found: Collection[Ours], copies: Mapping[str, str]
) -> str | None:
    """Leave to the leader of another target in the same database what it is doing."""
    admin, own = access.admin, access.hold.all_keys
    alone = await advisory.only_leader(admin, access.live, access.hold.names)
    opened = await journal.read(admin, list(copies))
    others = {each.key for each in opened.values() if each.key is not None}.difference(own)
    async with AsyncExitStack() as locks:
        for key in others:
            # or the next start of that target would undo the same at the same time
            turns = advisory.Turns(admin)
            locks.push_async_callback(turns.let_go)
            alone = alone and await turns.mine(key)
        if others:
            opened = await journal.read(admin, list(copies))  # it may just have done so
        if not alone:
            opened = {name: each for name, each in opened.items() if each.key in (None, *own)}
        done = []
        stamps = {copies[name] for name in opened}
        if opened:
            newest = max(opened, key=lambda name: (opened[name].by_hand, copies[name]))
            stamp = copies[newest]
            there = any(each.kind == "replaced" and each.stamp == stamp for each in found)
            done.append(await _finished(access, newest, stamp, opened[newest], there))
        purges = await journal.read(admin, [each.name for each in found if each.kind == "purged"])
        purges = {name: each for name, each in purges.items() if alone or each.key in own}
        told = [taken_over(name) for name in purges]
        for name, entry in {**opened, **purges}.items():
            await journal.write(admin, name, entry._replace(state="kept"))
        halves = await journal.unfinished(admin, list(copies))
        for each in found:
            if not alone and each.stamp not in stamps:
                continue
            if each.kind == "side" or each.name in halves:
                await access.drop(each.name)
            elif each.kind == "replaced":
                # a restore that was repeated above has kept it
                kind: Kind = "undone" if each.stamp in stamps else "purged"
                if kept := await _kept(access, each.name, kind):
                    if kind == "purged":
                        told.append(taken_over(kept))
                        continue
                    done.append(f"what the database held when it was put back is in {kept}")
        text = "; ".join([*done, *told])
        return Replaced(text) if told else text or None


async def _finished(
    access: ExclusiveAccess, name: str, stamp: str, entry: CopyEntry, replaced: bool
) -> str:
    oid = await databases.oid(access.admin, access.live)
    if entry.state == "restoring" and (replaced or (entry.by_hand and oid != entry.oid)):
        return f"an earlier run had put the database back from {name}"
    replaced_by_hand = entry.state == "migrating" and entry.oid not in (None, oid)
    async with access.connection() as live:
        entry = await settled(live, entry)

        async def unchanged() -> bool:
            async with access.connection(name) as copy:
                if await digests.catalog(live) != await digests.catalog(copy):
                    return False
                if entry.atomic and not entry.may_be_torn:
                    return True
                # a row that is not as it was may be the migration's
                values = await digests.values(live)
                return values is not None and values == await digests.values(copy)

        foreign = "another database has its name now" if replaced_by_hand else ""
        if entry.by_hand:
            done = None
        else:
            done = await needs_nothing(live, entry, unchanged, place=name, foreign=foreign)
    if done is not None:
        return done

    async def note(repairs: Repairs) -> None:
        if opened := (await journal.read(access.admin, [name])).get(name):
            await journal.write(access.admin, name, opened._replace(repairs=repairs))

    by_hand = _BY_HAND.format(live=access.live, name=name)
    async with counted(access.hold.counting, entry.repairs, name, by_hand, note) as repairs:
        entry = entry._replace(repairs=repairs)
        kept, _ = await put_back(access, name, stamp, entry, killed=True)
    return undone(name, ", ".join(kept))
