"""The backend of SQLite: a file, or a database in the application's own connection."""

from __future__ import annotations

# what only an act needs is imported there: a start with nothing to do comes here, too
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import event

from automigrator.backends.access import Access
from automigrator.backends.contract import checksums
from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.sessions import Sessions, in_autocommit
from automigrator.backends.contract.values import Sight, Verdict, VersionTable
from automigrator.backends.pools import emptied, keep_none_idle
from automigrator.backends.sqlite import codes, companions, connections, reader
from automigrator.errors import ConfigurationError
from automigrator.support.concurrency import in_thread

if TYPE_CHECKING:
    from sqlalchemy import URL
    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from automigrator.backends.contract.backend import Waiting
    from automigrator.backends.contract.checksums import Checksums
    from automigrator.backends.contract.meter import Meter, Relations, Usage
    from automigrator.backends.contract.snapshots import Snapshot
    from automigrator.backends.contract.values import Place
    from automigrator.backends.sqlite.copying.templates import FileTemplates
    from automigrator.backends.sqlite.doctor import FileExaminer
    from automigrator.backends.sqlite.files import Created
    from automigrator.backends.sqlite.hold import SQLiteHold
    from automigrator.failure import FailureKind


_OPTIONS = frozenset(("timeout", "isolation_level", "detect_types", "cached_statements"))
"""What both drivers take in a URL beside the place."""


_WRITTEN = """
select total_changes(), (select schema_version from pragma_schema_version),
  (select user_version from pragma_user_version),
  (select application_id from pragma_application_id)
"""
"""What a connection has changed; rows of a statement that failed and kept them count as well."""


class SQLite(Backend):
    """See `Backend`; everything that blocks runs in a thread."""

    name = "sqlite"
    offers = frozenset({"snapshots", "sides", "examiner"})
    advice: ClassVar[Mapping[FailureKind, str]] = {
        "unreachable": "look at the file, its folder, and the disk or network share that they are "
        "on: this process has to read, write and lock files there"
    }

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self.file = connections.file_of(access.url)
        self.in_place = self.file is None
        self.sessions = FileSessions()
        self._settled = False
        self._created: Created | None = None
        if self.in_place and access.given_engine is None:
            raise ConfigurationError(
                "a SQLite database in memory exists in the application's own connection only; "
                "pass the application's AsyncEngine (with StaticPool) instead of a URL"
            )

    async def identity(self, place: Place) -> Hashable:
        try:
            return await super().identity(place)
        except Exception as error:
            if place.url != self.access.url or self.classify(error).kind != "corrupt":
                raise
            return str(self.file)  # a listener of the application's reads the damaged file

    async def look(self, tables: Sequence[VersionTable], *, heads_only: bool = False) -> Sight:
        if not heads_only:
            await in_thread(_load)
        await self._settle()
        if self.file is not None:
            try:
                return await in_thread(partial(_look, self.file, tables))
            except sqlite3.DatabaseError as error:
                from automigrator.backends.sqlite.foreign import ensure_damaged

                if codes.is_damage(error):
                    await ensure_damaged(self.access, error)
                raise

        async with self.engine().connect() as connection:
            return await connection.run_sync(lambda c: reader.look(c.exec_driver_sql, tables))

    async def _settle(self) -> None:
        """Find the file that a creator of the application's leads to where the URL names none."""
        if self._settled or self.file is not None:
            return
        async with self.engine().connect() as connection:
            file = await connection.run_sync(connections.main_file)
        if file is not None:
            self.file, self.in_place = file, False
            self.access.url = self.access.url.set(database=str(file))
        self._settled = True

    async def create(self) -> bool:
        if self.file is None:
            return False
        self._created = await in_thread(partial(_create, self.file))
        return self._created is not None

    def engine(self) -> AsyncEngine:
        file = self.file
        if file is None:
            assert self.access.given_engine is not None  # see __init__
            return self.access.given_engine
        engine = self.access.engine()
        # one that lies idle keeps its lock where the application sets locking_mode=EXCLUSIVE
        keep_none_idle(engine.sync_engine.pool)
        ensure = connections.ensure_leads_to
        event.listen(engine.sync_engine.pool, "connect", lambda dbapi, _: ensure(file, dbapi))
        return engine

    def url_for(self, url: URL, drivername: str, own: URL | None = None) -> URL:
        options = own.query if own is not None else {}
        more = {name: options[name] for name in _OPTIONS.intersection(options)}
        return url.set(drivername=drivername, query={**url.query, **more})

    async def release(self, engine: AsyncEngine) -> None:
        if not self.in_place:
            await emptied(engine)

    @asynccontextmanager
    async def lock(
        self, tables: Sequence[VersionTable], timeout_s: float, waiting: Waiting
    ) -> AsyncIterator[SQLiteHold]:
        from automigrator.backends.sqlite.hold import FileHold, MemoryHold

        await self._settle()
        if self.file is not None:
            connections.ensure_locks(self.access.url)
        hold: FileHold | MemoryHold = (
            MemoryHold(self.look, self.engine().sync_engine)
            if self.file is None
            else FileHold(self.look, self.access, self.file, lambda: self._created)
        )
        async with hold.acquired(timeout_s, waiting):
            yield hold

    def templates(self) -> FileTemplates | None:
        from automigrator.backends.sqlite.copying.templates import FileTemplates

        return None if self.file is None else FileTemplates(self.access, self.file)

    def classify(self, error: BaseException) -> Verdict:
        from automigrator.backends.sqlite import errors

        return errors.classify(error, self.file)

    async def checksums(self, tables: Sequence[VersionTable]) -> Checksums | None:
        file = self.file
        if file is None:
            return None
        return checksums.loaded(await in_thread(lambda: companions.checksums_text(file)))

    async def debris(self) -> tuple[str, ...]:
        if self.file is None or not self.file.exists():
            return ()
        from automigrator.backends.sqlite.doctor import left_over

        return await in_thread(partial(left_over, self.file))

    async def snapshots(
        self, tables: Sequence[VersionTable], folders: Sequence[Path] = ()
    ) -> tuple[Snapshot, ...]:
        await self._settle()
        if self.file is None:
            return ()
        from automigrator.backends.sqlite.copying.kept_copies import snapshots_of

        return await in_thread(partial(snapshots_of, self.file, tables, folders))

    def metering(self, place: Place) -> AbstractAsyncContextManager[Meter | None]:
        copy = connections.file_of(place.url)
        if self.file is None or copy is None:
            return super().metering(place)
        from automigrator.backends.sqlite.meters.meter import metering

        return metering(self.file, copy)

    async def usage(self, tables: Relations = None) -> Usage | None:
        if self.file is None:
            return None
        from automigrator.backends.sqlite.meters.meter import usage

        return await in_thread(partial(usage, self.file))

    def examiner(self, tables: Sequence[VersionTable]) -> FileExaminer:
        from automigrator.backends.sqlite.doctor import FileExaminer

        return FileExaminer(self.file)


def _load() -> None:
    """Import the rest while it can be read: a failure may be that no file can be opened."""
    from automigrator.backends.sqlite import doctor, errors, foreign, hold  # noqa: F401


def _create(file: Path) -> Created | None:
    """Create the file, but none beside copies of it: one of them may hold what is missing.

    Nor beside a log: SQLite would delete it, or play it into the new file.
    """
    from automigrator.backends import advice
    from automigrator.backends.sqlite import files
    from automigrator.backends.sqlite.copying import copies

    beside = companions.sidecars(file.resolve())
    logs = [p for p in beside if files.size_of(p) and not p.name.endswith("-shm")]
    if logs and not file.exists():
        raise advice.missing_beside_its_log(f"the database file {file.resolve()}", str(logs[0]))
    if not file.exists() and (kept := copies.kept(file, *copies.OF_DATA)):
        raise advice.missing_beside_its_copies(
            f"the database file {file.resolve()}",
            list(map(str, kept)),
            "put the newest sound copy back: `automigrator snapshots restore newest`",
            "move these copies to another folder first",
        )
    return files.Created.at(file)


def _look(file: Path, tables: Sequence[VersionTable]) -> Sight:
    companions.ensure_own_log(file)
    sight = reader.look_at_file(file, tables)
    kept = checksums.begun(companions.checksums_begin(file)) if sight.exists else None
    return sight._replace(unfinished=companions.has_journal(file), checksum=kept)


class FileSessions(Sessions):
    """Connections of aiosqlite and pysqlite."""

    def __init__(self) -> None:
        self._keys_off = False

    def identity(self, connection: Connection) -> Hashable:
        file = connections.main_file(connection)
        return str(file) if file is not None else id(connection.connection.driver_connection)

    def adopt(self, connection: Connection, *, to_write: bool = True) -> Callable[[], None]:
        from automigrator.backends.sqlite.transactions import make_real

        return make_real(connection, to_write=to_write, keys_off=self._keys_off)

    def given_later(self, arguments: Mapping[str, Any]) -> tuple[Collection[str], Sequence[str]]:
        return arguments.keys() - {"timeout", "check_same_thread", "cached_statements"}, ()

    def eases(self, error: BaseException) -> bool:
        from automigrator.backends.sqlite.foreign_keys import KeysInTheWayError
        from automigrator.support.error_chain import chain

        in_the_way = any(isinstance(each, KeysInTheWayError) for each in chain(error))
        if self._keys_off or not in_the_way:
            return False
        self._keys_off = True
        return True

    def interrupter(self, connection: Connection) -> Callable[[], None] | None:
        interrupt = getattr(connection.connection.driver_connection, "interrupt", None)
        if interrupt is None:
            return None

        def call() -> None:
            answer = interrupt()
            if hasattr(answer, "send"):  # aiosqlite's coroutine does its work at the first step
                with suppress(StopIteration):
                    answer.send(None)

        return call

    def mark(self, connection: Connection, number: int) -> None:
        """See `Sessions`; the database of temporary tables is in the same transaction."""
        dbapi = connection.connection.dbapi_connection
        connections.rows_of(dbapi, f"PRAGMA temp.user_version={number:d}")

    def marked(self, connection: Connection) -> int | None:
        dbapi = connection.connection.dbapi_connection
        ((number,),) = connections.rows_of(dbapi, "PRAGMA temp.user_version")
        return int(number)

    def before_commit(self, connection: Connection, call: Callable[[], None]) -> Callable[[], None]:
        """See `Sessions`; SQLite asks when it compiles a COMMIT, from wherever it comes."""
        info = connection.info
        info[connections.BEFORE_COMMIT] = call
        return lambda: info.pop(connections.BEFORE_COMMIT, None)

    def ended(self, connection: Connection) -> bool:
        return getattr(connection.connection.driver_connection, "in_transaction", True) is False

    def written(self, connection: Connection) -> Hashable | None:
        """See `Sessions`; rows, tables, and what else an application keeps in the header."""
        dbapi = connection.connection.dbapi_connection
        ((rows, *header),) = connections.rows_of(dbapi, _WRITTEN)
        return rows, *header

    def configure_options(self, connection: Connection | None = None) -> dict[str, Any]:
        if connection is not None and in_autocommit(connection):
            return {}
        return {"transactional_ddl": True}
