"""Dumps of a target, one of the two ways to make a snapshot; never to be cancelled."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.journal import Repairs, counted, undone
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.postgresql import databases, digests, journal
from automigrator.backends.postgresql.databases import DEAD_LEADER_S, GRACE_S
from automigrator.backends.postgresql.dump import files, restore
from automigrator.backends.postgresql.errors import NO_PRIVILEGE, refusing
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.journal import CopyEntry, DumpEntry
from automigrator.backends.postgresql.names import SCHEMA_OF_OURS
from automigrator.backends.postgresql.neighbours import ensure_no_strange_code
from automigrator.backends.postgresql.notes import note_name
from automigrator.backends.postgresql.sql import (
    begin_reading,
    end_reading,
    rows_of,
    run,
    server_version,
)
from automigrator.backends.postgresql.verdict import needs_nothing, settled, was_committed
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError
from automigrator.retention import stamp
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of
from automigrator.support.owned_files import NotOursError

logger = logger_of(__name__)

_BY_HAND = (
    'To restore it by hand: CREATE DATABASE "{live}_restored"; run `pg_restore --exit-on-error -d '
    "{live}_restored {path}`; then, while nobody is connected, rename the two databases, so that "
    "the restored one has the name of the other"
)

_NAMED = re.compile(r"/.*__automigrator_snapshot_[0-9a-f]{8}_[0-9A-Za-z]{1,28}\.dump", re.DOTALL)


async def take(
    access: ExclusiveAccess,
    stamp: str,
    entry: CopyEntry,
    options: SnapshotOptions,
    stoppable: Stoppable,
) -> tuple[str, DumpEntry]:
    """Dump the target, prove that the dump can be put back, and open the journal.

    One that belongs to no migration is made beside whoever works there. It is proved only where
    nobody does, and opens no journal: nothing undoes what was written since.
    """
    migrates = entry.before != entry.after
    if options.folder is None:
        raise RefusedError(
            "a dump needs a folder that the next start can read as well: name it with folder="
        )
    path = files.path_of(options.folder, access.urls[0], stamp)
    dump = DumpEntry(
        entry.state,
        entry.before,
        entry.after,
        tables=entry.tables,
        disconnect_others=entry.disconnect_others,
        steps=entry.steps,
        committed=entry.committed,
        path=str(path),
        host=socket.gethostname(),
        server=server_version(access.admin)[0],
    )
    access.hold.binaries = options.binaries
    act = f"dump database {access.live!r}"
    await access.ensure_unshared(act, entry.tables)
    await access.ensure_not_replicated(f"{act} to restore it", in_place=True)
    clients = await stoppable(access.clients(dump.server, options.binaries))
    alone = True
    try:
        await _ensure_alone(access, act, dump, GRACE_S)
    except RefusedError as refusal:
        if migrates:
            raise
        alone = False
        logger.info("it is not tried whether the dump can be put back: %s", refusal)
    async with files.created(path, access.urls[0]) as archive:
        async with access.connection() as connection:
            await begin_reading(connection)  # one state of the database, which pg_dump shares
            ((snapshot,),) = await rows_of(connection, "select pg_export_snapshot()")
            await access.ensure_at(connection, entry.before, entry.tables)
            await ensure_no_strange_code(connection, act)
            dump = await _described(connection, dump, atomic=entry.atomic)
            ((size,),) = await rows_of(connection, digests.SIZE)
            await stoppable(files.write(access, archive, size, clients, f"--snapshot={snapshot}"))
            await end_reading(connection)
        size, digest = await stoppable(in_thread(archive.measured))
        dump = dump._replace(size=size, digest=digest)
        if alone:
            await restore.rehearse(access, dump, archive, clients)
        if migrates:
            with refusing(
                NO_PRIVILEGE,
                f"this role may not keep a journal in database {access.live!r}",
                f"Grant it CREATE on the database, or on its schema {SCHEMA_OF_OURS!r}",
            ):
                await journal.write_dump(access.hold, None)
        await in_thread(lambda: files.publish(archive))
        await in_thread(lambda: files.describe(path, dump.dumped()))
        return dump.path, await _opened(access, dump) if migrates else dump


async def put_back(
    access: ExclusiveAccess, entry: DumpEntry, *, killed: bool = False, by_hand: bool = False
) -> tuple[tuple[str, ...], DumpEntry]:
    """Put the dump's data back, all or nothing; it may be repeated.

    `by_hand`: a person asked for it, so that no journal is open afterwards.

    Returns where a dump of what it replaces is kept: that nobody has written since cannot be
    proved. And the entry that is written now. Raises RefusedError, the database as it was.
    """
    way_out = "" if by_hand else _way_out(access)
    async with _intact(access, Path(entry.path), entry, way_out) as archive:
        clients = await access.clients(entry.server, access.hold.binaries)
        act = f"restore database {access.live!r}"
        await _ensure_alone(access, act, entry, DEAD_LEADER_S if killed else GRACE_S)
        await access.ensure_unshared(act, entry.tables, own_anywhere=True)
        await access.ensure_not_replicated(act, in_place=True)
        kept = files.path_of(archive.path.parent, access.urls[0], stamp(), "replaced")
        async with files.created(kept, access.urls[0]) as replaced:
            held = await restore.restore(access, entry, archive, clients, replaced)
    if held is not None:
        with suppress(OSError, RefusedError):  # a convenience: what it holds is the dump itself
            await in_thread(lambda: files.describe(kept, held.dumped()))
    if by_hand:
        return (str(kept),), entry
    # DDL has a new catalog now, by which another attempt's changes are told
    fresh = entry._replace(committed=False if entry.steps is not None else None, transactions=())
    return (str(kept),), await _opened(access, fresh)


async def differs(access: ExclusiveAccess, entry: DumpEntry) -> bool:
    """Compare the database with what the dump holds; rows as `template_copy.differs` does."""
    async with access.connection() as connection:
        if await digests.catalog(connection) != entry.catalog:
            return True
        if not entry.values or not await was_committed(connection, entry):
            return False
        found = await digests.values(connection)
        return found is not None and found != entry.values


async def recovered(access: ExclusiveAccess) -> str | None:
    """Finish or undo the migration of an open journal; says what was done."""
    entry = await journal.read_dump(access.access, access.hold.dump_key)
    if entry is None:
        return None
    if not _NAMED.fullmatch(entry.path):
        raise RefusedError(
            f"the journal of database {access.live!r} says that it has to be put back from "
            f"{entry.path}, which is no name of a dump of ours; nothing was changed. "
            f"{_way_out(access)}"
        )
    async with access.access.shared() as connection:
        entry = known = await settled(connection, entry)

        async def unchanged() -> bool:
            if await digests.catalog(connection) != known.catalog:
                return False
            if not known.values:
                return not known.committed
            return await digests.values(connection) == known.values

        done = await needs_nothing(connection, entry, unchanged, place=entry.path)
    if done is None:

        async def note(repairs: Repairs) -> None:
            if opened := await journal.read_dump(access.access, access.hold.dump_key):
                await journal.write_dump(access.hold, opened._replace(repairs=repairs))

        by_hand = _BY_HAND.format(live=access.live, path=entry.path)
        async with counted(
            access.hold.counting, entry.repairs, entry.path, by_hand, note
        ) as repairs:
            kept, _ = await put_back(access, entry._replace(repairs=repairs), killed=True)
        done = undone(entry.path, *kept)
    await journal.forget_dump(access.hold)
    return done


async def _opened(access: ExclusiveAccess, entry: DumpEntry) -> DumpEntry:
    """Write the journal, with the catalog as it is now."""
    async with access.connection() as connection:
        entry = entry._replace(catalog=await digests.catalog(connection))
    await journal.write_dump(access.hold, entry)
    return entry


async def _ensure_alone(
    access: ExclusiveAccess, act: str, entry: DumpEntry, grace_s: float
) -> None:
    if entry.disconnect_others:
        await access.empty_pools()
        async with access.second() as second:
            await databases.end_others(second, access.live)
    else:
        await access.ensure_left(act, access.live, grace_s=grace_s, but_ours=True)


async def _described(connection: AsyncConnection, entry: DumpEntry, *, atomic: bool) -> DumpEntry:
    """Add the digests of what the dump is to hold; sets `READS_ALL` for the transaction."""
    if large := await rows_of(connection, digests.LARGE_OBJECTS):
        # an archive begins and commits transactions of its own around them
        raise RefusedError(
            "a dump with large objects cannot be put back in one transaction, and there are "
            f"some: {', '.join(str(row[0]) for row in large)}; nothing was changed"
        )
    with refusing(
        NO_PRIVILEGE,
        "this role cannot read all that a dump would hold",
        "Name one that can with Target(migrate_with=...)",
    ):
        await run(connection, digests.READS_ALL)
        return entry._replace(
            shape=(await rows_of(connection, digests.SHAPE))[0][0],
            rows=await digests.rows_here(connection),
            values="" if atomic else await digests.values_here(connection),
            extensions=tuple(tuple(each) for each in await rows_of(connection, digests.EXTENSIONS)),
        )


def _way_out(access: ExclusiveAccess) -> str:
    domain = note_name("dump", access.hold.dump_key)
    return f"To keep the database as it is instead: DROP DOMAIN {domain}"


@asynccontextmanager
async def _intact(
    access: ExclusiveAccess, path: Path, entry: DumpEntry, way_out: str
) -> AsyncIterator[files.Archive]:
    """Context manager: the open dump. Raises RefusedError when it is not what was written."""
    opened = AsyncExitStack()
    try:
        archive = await opened.enter_async_context(files.opened(path))
    except NotOursError as error:
        raise RefusedError(
            f"database {access.live!r} has to be put back from the dump {path}: {error}. {way_out}"
        ) from error
    except OSError as error:
        raise RefusedError(
            f"an earlier migration of database {access.live!r} has to be undone (it was killed, or "
            f"its snapshot was not put back) from the dump {path} of host {entry.host}, which "
            "cannot be read "
            f"on {socket.gethostname()} ({error.strerror}); nothing was changed. Start where that "
            f"file is, or bring it here. {way_out}"
        ) from error
    async with opened:
        size, digest = await in_thread(archive.measured)
        if (size, digest) != (entry.size, entry.digest):
            raise RefusedError(
                f"the dump {path} is not what was written: {size:,} bytes, and {entry.size:,} were "
                f"written, or other ones; nothing was changed. {way_out}"
            )
        server = server_version(access.admin)[0]
        if server != entry.server:
            raise RefusedError(
                f"the dump {path} is of a PostgreSQL {entry.server} server, and this one is "
                f"{server}; nothing was changed. {way_out}"
            )
        yield archive
