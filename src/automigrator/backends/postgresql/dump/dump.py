"""Dumps of a target: taken, put back, and what a killed process left of either."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.postgresql import databases, digests, reader
from automigrator.backends.postgresql.databases import GRACE_S
from automigrator.backends.postgresql.digests import (
    SCHEMA_OF_OURS,
    fingerprint,
    values,
    values_here,
)
from automigrator.backends.postgresql.dump import files, journal, restore
from automigrator.backends.postgresql.dump import programs as children
from automigrator.backends.postgresql.dump import programs as clients
from automigrator.backends.postgresql.dump.journal import DumpRecord
from automigrator.backends.postgresql.errors import NO_PRIVILEGE, code_of
from automigrator.backends.postgresql.exclusive import (
    Scene,
    ensure_alone,
    ensure_exclusive,
    ensure_nobody_elses,
)
from automigrator.backends.postgresql.refusals import first_words
from automigrator.backends.postgresql.sql import begin_reading, rows_of, run, server_version
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError
from automigrator.support.concurrency import in_thread

logger = logging.getLogger(__name__)

DEAD_LEADER_S = 10.0

"""Seconds in which the sessions of a killed process leave the server."""

_TELL_S = 10.0


async def take(
    scene: Scene, path: Path, record: DumpRecord, stoppable: Stoppable, *, atomic: bool
) -> DumpRecord:
    """Dump the target to `path`, prove that it can be put back, and open the record."""
    act = f"dump database {scene.live!r}"
    await ensure_exclusive(scene, act, record.tables)
    programs = await clients.find(record.server, _folder(record.binaries))
    await _alone(scene, act, record, GRACE_S)
    record = replace(record, path=str(path), host=socket.gethostname())
    try:
        async with _exported(scene) as (connection, snapshot):
            found = (await reader.look(connection, record.tables)).sight.all_heads()
            if found != tuple(sorted(record.before)):
                raise RefusedError(
                    f"the database is at {', '.join(found) or 'base'}, and this run's snapshot "
                    f"would have to be at {', '.join(record.before) or 'base'}; nothing was changed"
                )
            record = await _described(connection, record, atomic=atomic)
            size = int((await rows_of(connection, digests.SIZE))[0][0])
            await stoppable(_dump(scene, path, size, programs, f"--snapshot={snapshot}"))
        record = await stoppable(_finished(scene, path, record, programs))
        await restore.rehearse(scene, replace(record, path=str(files.partial(path))), programs)
        async with scene.access.connection(autocommit=True) as connection:
            await _prepared(connection, scene)
            await in_thread(lambda: files.publish(path))
            record = replace(record, catalog=await _catalog(connection))
            await journal.write(connection, scene.hold.key, record)
    except BaseException:
        await in_thread(lambda: _remove(path))
        raise
    return record


async def put_back(scene: Scene, record: DumpRecord, *, killed: bool = False) -> str:
    """Put the dump's data back, all or nothing; it may be repeated.

    Returns where a dump of what it replaces is kept: that nobody has written since cannot be
    proved. Raises RefusedError, the database as it was.
    """
    path = Path(record.path)
    await _intact(scene, path, record)
    programs = await clients.find(record.server, _folder(record.binaries))
    act = f"restore database {scene.live!r}"
    await _alone(scene, act, record, DEAD_LEADER_S if killed else GRACE_S)
    await ensure_nobody_elses(scene, act, record.tables)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    kept = files.path_of(path.parent, scene.access.url, stamp, "replaced")
    keeping = restore.Keeping(
        lambda: _keep(scene, kept, programs), lambda: in_thread(lambda: files.publish(kept))
    )
    try:
        await restore.restore(scene, record, programs, replace(record, state="kept"), keeping)
    except BaseException:
        await in_thread(lambda: _remove(kept))
        raise
    async with scene.access.connection(autocommit=True) as connection:
        # DDL has a new catalog now: what another attempt changes is told by that
        again = replace(record, catalog=await _catalog(connection))
        await journal.write(connection, scene.hold.key, again)
    return str(kept)


async def recover(scene: Scene) -> str | None:
    """Finish or undo what an open record tells of; says what was done."""
    async with scene.access.shared() as connection:
        record = await journal.read(connection, scene.hold.key)
        if record is None:
            return None
        done = await _needs_nothing(connection, record)
    if done is None:
        kept = await put_back(scene, record, killed=True)
        done = f"the database was put back from {record.path} after a process was killed"
        done += f"; what it held until now is in {kept}"
    await close(scene)
    return done


async def close(scene: Scene) -> None:
    """Forget the record: the dump is a file like any other from now on."""
    async with scene.access.connection(autocommit=True) as connection:
        await journal.forget(connection, scene.hold.key)


async def _needs_nothing(connection: AsyncConnection, record: DumpRecord) -> str | None:
    """As for a copy on the server: see `snapshots`."""
    heads = (await reader.look(connection, record.tables)).sight.all_heads()
    if heads == tuple(sorted(record.after)):
        return f"a migration that was killed had ended at {', '.join(heads) or 'base'}"
    if heads != tuple(sorted(record.before)) or await _catalog(connection) != record.catalog:
        return None
    if record.values and await values(connection) != record.values:
        return None
    return "a migration that was killed had changed nothing"


async def _alone(scene: Scene, act: str, record: DumpRecord, grace_s: float) -> None:
    if record.disconnect_others:
        await scene.empty_pools()
        async with scene.second() as second:
            await databases.end_others(second, scene.live)
    else:
        await ensure_alone(scene, act, scene.live, grace_s=grace_s, but_ours=True)


@asynccontextmanager
async def _exported(scene: Scene) -> AsyncIterator[tuple[AsyncConnection, str]]:
    """A transaction that sees one state of the database, and the name by which others share it."""
    async with scene.access.connection(autocommit=True) as connection:
        await begin_reading(connection)
        name = (await rows_of(connection, "select pg_export_snapshot()"))[0][0]
        yield connection, name
        await run(connection, "ROLLBACK")


async def _described(
    connection: AsyncConnection, record: DumpRecord, *, atomic: bool
) -> DumpRecord:
    if large := await rows_of(connection, digests.LARGE_OBJECTS):
        # an archive begins and commits transactions of its own around them
        raise RefusedError(
            "a dump with large objects cannot be put back in one transaction, and there are "
            f"{', '.join(str(row[0]) for row in large)}, say; nothing was changed"
        )
    await run(connection, "SAVEPOINT described")  # what is set within is gone after it
    await run(connection, "SET LOCAL search_path = ''")
    await run(connection, "SET LOCAL row_security = off")
    try:
        tables = [row[0] for row in await rows_of(connection, digests.TABLES)]
        shape = (await rows_of(connection, digests.SHAPE))[0][0]
        rows = (await rows_of(connection, digests.rows(tables).replace(":", "\\:")))[0][0]
        held = "" if atomic else await values_here(connection)
        extensions = await rows_of(connection, digests.EXTENSIONS)
    except DBAPIError as error:
        if code_of(error) != NO_PRIVILEGE:
            raise
        raise RefusedError(
            f"this role cannot read all that a dump would hold ({first_words(error)}); nothing "
            "was changed. Name one that can with Target(migrate_with=...)"
        ) from error
    await run(connection, "ROLLBACK TO SAVEPOINT described")
    return replace(
        record,
        shape=shape,
        rows=rows,
        values=held,
        extensions=tuple(tuple(each) for each in extensions),
    )


async def _catalog(connection: AsyncConnection) -> str:
    parts = repr(await fingerprint(connection))
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


async def _dump(
    scene: Scene, path: Path, size: int, programs: clients.Clients, *special: str
) -> None:
    """Write all but what is ours to the file that is not yet called `path`."""
    target = files.partial(path)

    def ready() -> None:
        files.clear_partials(path.parent, scene.access.url)
        files.make_room(path.parent, size)
        files.create_private(target)

    await in_thread(ready)
    logger.info("dumping database %r, %s bytes of tables, to %s", scene.live, f"{size:,}", path)
    # the default compresses twice as long, while the application waits, for a tenth less
    options = ["-Fc", "-Z1", "--no-password", "-N", SCHEMA_OF_OURS, "-f", str(target), *special]
    env = await scene.environment()
    work = children.run(programs.program("pg_dump"), *options, env=env)
    await _told(work, target)


async def _told(work: Awaitable[None], target: Path) -> None:
    """Await a dump, and say how large it has become from time to time."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=_TELL_S))[0]:
            logger.info("%s: %s bytes so far", target, f"{_size(target):,}")
        await task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _finished(
    scene: Scene, path: Path, record: DumpRecord, programs: clients.Clients
) -> DumpRecord:
    """Read the dump whole, and note what it is known by."""
    target = files.partial(path)
    await _readable(target, programs, await scene.environment())
    size, digest = await in_thread(lambda: files.measured(target))
    return replace(record, size=size, digest=digest)


async def _readable(path: Path, programs: clients.Clients, env: dict[str, str]) -> None:
    await children.run(programs.program("pg_restore"), "-f", "/dev/null", str(path), env=env)


async def _keep(scene: Scene, path: Path, programs: clients.Clients) -> None:
    """Dump what a restore is to replace, while it keeps writers out."""
    async with scene.access.connection(autocommit=True) as connection:
        size = int((await rows_of(connection, digests.SIZE))[0][0])
    # behind somebody who waits for the restore's own locks it would wait for ever
    await _dump(scene, path, size, programs, f"--lock-wait-timeout={restore.LOCK_S}s")
    await _readable(files.partial(path), programs, await scene.environment())


async def _intact(scene: Scene, path: Path, record: DumpRecord) -> None:
    """Raise RefusedError when the dump is not here, or not what was written."""
    way_out = f"To keep the database as it is instead: DROP DOMAIN {journal.domain(scene.hold.key)}"
    try:
        size, digest = await in_thread(lambda: files.measured(path))
    except OSError as error:
        raise RefusedError(
            f"database {scene.live!r} was being changed when a process was killed or failed, and "
            f"has to be put back from the dump {path} of host {record.host}, which cannot be read "
            f"on {socket.gethostname()} ({error.strerror}); nothing was changed. Start where that "
            f"file is, or bring it here. {way_out}"
        ) from error
    if (size, digest) != (record.size, record.digest):
        raise RefusedError(
            f"the dump {path} is not what was written: {size:,} bytes, and {record.size:,} were "
            f"written, or other ones; nothing was changed. {way_out}"
        )
    async with scene.access.connection(autocommit=True) as connection:
        server = server_version(connection)[0]
    if server != record.server:
        raise RefusedError(
            f"the dump {path} is of a PostgreSQL {record.server} server, and this one is "
            f"{server}; nothing was changed. {way_out}"
        )


async def _prepared(connection: AsyncConnection, scene: Scene) -> None:
    try:
        await journal.prepare(connection, scene.hold.key)
    except DBAPIError as error:
        if code_of(error) != NO_PRIVILEGE:
            raise
        raise RefusedError(
            f"this role may not keep a record in database {scene.live!r}: it needs CREATE on the "
            f"database, or on its schema {SCHEMA_OF_OURS!r}; nothing was changed"
        ) from error


def _folder(binaries: str | None) -> Path | None:
    return Path(binaries) if binaries is not None else None


def _size(path: Path) -> int:
    return path.stat().st_size


def _remove(path: Path) -> None:
    files.partial(path).unlink(missing_ok=True)
