"""What earlier runs have kept of a PostgreSQL target: shown to a person, and put back for one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from automigrator.backends.contract.snapshots import PutBack, Snapshot, SnapshotKind
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import databases, journal
from automigrator.backends.postgresql.copying import template_copy
from automigrator.backends.postgresql.dump import dump, files
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.journal import CopyEntry
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.backends.postgresql.names import Ours, name_beside, ours
from automigrator.backends.postgresql.sql import rows_of
from automigrator.backends.postgresql.verdict import heads_of
from automigrator.errors import RefusedError
from automigrator.support.concurrency import in_thread
from automigrator.support.redaction import first_line

_KINDS: dict[str, SnapshotKind] = {"snapshot": "template", "undone": "undone", "purged": "purged"}
"""What is shown of the databases beside a target; the others are only on their way."""

Tables = tuple[VersionTable, ...]


async def snapshots_of(
    maintenance: Maintenance, tables: Sequence[VersionTable], folders: Sequence[Path]
) -> tuple[Snapshot, ...]:
    """Return the databases beside the target, and its dumps in the folders, newest first."""
    live, access = await maintenance.name.asked(), maintenance.access
    async with maintenance.connection() as admin:
        beside = [each for each in await ours(admin, live) if each.kind in _KINDS]
        rows = await rows_of(
            admin,
            "select datname::text, pg_database_size(oid), datallowconn from pg_database "
            "where datname = any(cast(:names as text[]))",
            names=[each.name for each in beside],
        )
    told = {name: (size, opened) for name, size, opened in rows}
    found = []
    for each in beside:
        size, opened = told.get(each.name, (None, False))
        heads: tuple[str, ...] = ()
        flaw = "" if opened else "nobody may connect to it: the copy was never finished"
        if opened:
            try:
                async with access.connection(each.name, autocommit=True) as connection:
                    heads = await heads_of(connection, tables)
            except (SQLAlchemyError, OSError) as error:
                flaw = first_line(error)
        found.append(Snapshot(each.name, heads, each.stamp, _KINDS[each.kind], size, flaw))
    for folder in folders:
        for url in dict.fromkeys((access.url.set(database=live), access.url)):
            found += await in_thread(partial(_dumps, folder, url))
    return tuple(sorted(found, key=lambda each: each.stamp, reverse=True))


async def put_back(
    access: ExclusiveAccess,
    snapshot: Snapshot,
    tables: Tables,
    disconnect_others: bool,
    recover: Callable[[], Awaitable[object]],
) -> PutBack:
    """Put one of them back, and keep what it replaces. Never to be cancelled.

    `recover` ends what is open of other migrations. Raises RefusedError, the database as it was.
    """
    admin, live, place = access.admin, access.live, snapshot.place
    if snapshot.flaw:
        raise RefusedError(f"{place} cannot be put back ({snapshot.flaw}); nothing was changed")
    if not await databases.exists(admin, live):
        by_hand = f'ALTER DATABASE "{place}" RENAME TO "{live}"'
        raise RefusedError(
            f"database {live!r} does not exist, and nothing was changed; "
            + (by_hand if not is_dump(snapshot) else "make it, empty, and try again")
        )
    if is_dump(snapshot):
        if await _opened(access):
            await recover()  # the restore's own transaction closes the journal of a dump alone
        kept = await _dump_put_back(access, snapshot, tables, disconnect_others)
    else:
        place, kept = await _copy_put_back(access, snapshot, tables, disconnect_others)
        for name, entry in (await _opened(access)).items():
            await journal.write(admin, name, entry._replace(state="kept"))
    for key in access.hold.all_keys:
        if await journal.read_dump(access.access, key) is not None:
            await access.hold.write_note("dump", key, lambda _: None)
    return PutBack(place, ", ".join(kept))


def is_dump(snapshot: Snapshot) -> bool:
    """Whether it is a file; a database that a restore has replaced is `undone`."""
    return snapshot.kind in ("dump", "replaced")


async def _copy_put_back(
    access: ExclusiveAccess, snapshot: Snapshot, tables: Tables, disconnect_others: bool
) -> tuple[str, tuple[str, ...]]:
    admin, live, place = access.admin, access.live, snapshot.place
    copies = {each.name: each for each in await ours(admin, live)}
    if place not in copies:
        raise RefusedError(f"the snapshot {place!r} is gone; nothing was changed")
    act = f"put {place} back"
    await access.ensure_may_create(place)
    async with access.connection(place) as connection:
        await access.ensure_at(connection, snapshot.heads, tables)
    await access.ensure_unshared(act, tables, own_anywhere=True)
    if not disconnect_others:
        await access.ensure_left(act, live, place)
    before = (await journal.read(admin, [place])).get(place)
    heads = snapshot.heads
    entry = CopyEntry("restoring", heads, heads, tables=tables, key=access.hold.key)
    entry = entry._replace(
        disconnect_others=disconnect_others, oid=await databases.oid(admin, live)
    )
    name = await _as_snapshot(access, copies[place])
    try:
        kept, _ = await template_copy.put_back(access, name, snapshot.stamp, entry)
    except BaseException:
        with suppress(SQLAlchemyError, OSError):
            # it tells of no restore where none has come to its end
            if await databases.oid(admin, live) == entry.oid:
                await journal.write(admin, name, before or entry._replace(state="kept"))
                if name != place:
                    await databases.rename(admin, name, place)
        raise
    return name, kept


async def _as_snapshot(access: ExclusiveAccess, copy: Ours) -> str:
    """Give what was set aside the name of a snapshot: the next start puts back no other."""
    if copy.kind == "snapshot":
        return copy.name
    name = name_beside(access.live, "snapshot", copy.stamp)
    if await databases.exists(access.admin, name):
        raise RefusedError(
            f"{copy.name} cannot be put back: a database {name!r}, as it would be called then, is "
            "there already; nothing was changed"
        )
    await databases.disconnect(access.admin, copy.name)
    await databases.rename(access.admin, copy.name, name)
    return name


async def _dump_put_back(
    access: ExclusiveAccess, snapshot: Snapshot, tables: Tables, disconnect_others: bool
) -> tuple[str, ...]:
    path = Path(snapshot.place)
    entry = journal.described(await in_thread(lambda: files.description(path)))
    if entry is None:
        raise RefusedError(f"{path} cannot be put back ({_NOT_DESCRIBED}); nothing was changed")
    entry = entry._replace(
        path=str(path), tables=tables, disconnect_others=disconnect_others, transactions=()
    )
    hold = access.hold
    opened = await journal.read_dump(access.access, hold.dump_key)
    if opened is None:
        await journal.write_dump(hold, None)  # the transaction closes it, so it has to be there
    try:
        kept, _ = await dump.put_back(access, entry, by_hand=True)
    except BaseException:
        if opened is None:
            with suppress(SQLAlchemyError, OSError, RefusedError):
                await journal.forget_dump(hold)
        raise
    await journal.forget_dump(hold)
    return kept


async def _opened(access: ExclusiveAccess) -> dict[str, CopyEntry]:
    """The open journals of copies that are this target's, by the copy's name."""
    admin = access.admin
    names = [each.name for each in await ours(admin, access.live)]
    opened = await journal.read(admin, names)
    keys = (None, *access.hold.all_keys)
    return {name: each for name, each in opened.items() if each.key in keys}


_NOT_DESCRIBED = (
    "the file that says what it holds is missing beside it, or of another user: pg_restore can "
    "restore it into an empty database"
)


def _dumps(folder: Path, url: URL) -> list[Snapshot]:
    replaced = [_dump(each, "replaced") for each in files.found(folder, url, "replaced")]
    return replaced + [_dump(each, "dump") for each in files.found(folder, url)]


def _dump(found: files.DumpFile, kind: SnapshotKind) -> Snapshot:
    path = Path(found.name)
    heads: tuple[str, ...] = ()
    size: int | None = None
    try:
        size = path.stat().st_size
        entry = journal.described(files.description(path))
        flaw = "" if entry is not None else _NOT_DESCRIBED
        if entry is not None:
            heads = tuple(sorted(entry.before))
            if size != entry.size:
                flaw = f"it has {size:,} bytes, and {entry.size:,} were written"
    except (OSError, ValueError, RefusedError):
        flaw = _NOT_DESCRIBED
    return Snapshot(found.name, heads, found.stamp, kind, size, flaw)
