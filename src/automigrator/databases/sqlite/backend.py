"""The backend of SQLite: a file, or a database in the application's own connection."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.databases.access import Access
from automigrator.databases.backend import Copying, Side, Sight, Snapshot, VersionTable
from automigrator.databases.holding import Hold
from automigrator.databases.sqlite import classifying, copying, journal, locking, looking
from automigrator.databases.sqlite.checking import verify
from automigrator.databases.sqlite.files import beside, remove, sync_folder
from automigrator.databases.sqlite.location import file_of
from automigrator.databases.sqlite.reading import connect, reading
from automigrator.databases.sqlite.recovering import recover
from automigrator.databases.sqlite.space import ensure_space
from automigrator.databases.sqlite.transactions import make_real
from automigrator.errors import ConfigurationError, RefusedError
from automigrator.failure import FailureKind
from automigrator.threads import in_thread, to_the_end


@dataclass(slots=True)
class SideFile:
    """A fresh database file beside the target's; `needed` once the journal names it."""

    engine: AsyncEngine
    url: URL
    place: str
    needed: bool = False


class SQLite:
    """See `Backend`; everything that blocks runs in a thread."""

    name = "sqlite"

    def __init__(self, access: Access) -> None:
        self.access = access
        self.file = file_of(access.url)
        self.in_place = self.file is None
        self._entry: journal.Entry | None = None
        if self.in_place and access.given_engine is None:
            raise ConfigurationError(
                "a SQLite database in memory exists in the application's own connection only; "
                "pass the application's AsyncEngine (with StaticPool) instead of a URL"
            )

    async def look(self, tables: Sequence[VersionTable]) -> Sight:
        if self.file is not None:
            file = self.file
            return await in_thread(lambda: looking.look_at_file(file, tables))

        def ask(connection: Connection) -> Sight:
            return looking.look(lambda sql: connection.exec_driver_sql(sql).all(), tables)

        async with self.engine().connect() as connection:
            return await connection.run_sync(ask)

    async def glimpse(self, table: VersionTable) -> tuple[str, ...] | None:
        """Nothing is cheaper than `look` here."""
        return None

    async def create(self) -> bool:
        if self.file is None:
            return False
        file = self.file

        def make() -> bool:
            if file.exists():
                return False
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                # of many that create at once, one did; a link's other end is what is made
                file.resolve().touch(0o644, exist_ok=False)
            except FileExistsError:
                return False
            return True

        return await in_thread(make)

    def engine(self) -> AsyncEngine:
        if self.in_place and self.access.given_engine is not None:
            return self.access.given_engine
        return self.access.engine()

    async def release(self, engine: AsyncEngine) -> None:
        if not self.in_place:
            await engine.dispose()

    def lock(
        self,
        tables: Sequence[VersionTable],
        timeout_s: float,
        waiting: Callable[[float, str], None],
    ) -> AbstractAsyncContextManager[Hold]:
        if self.file is None:
            return locking.memory_lock(self.engine().sync_engine, timeout_s, waiting)
        return locking.file_lock(self.file, timeout_s, waiting)

    def identity(self, connection: Connection) -> Hashable:
        for _, name, path in connection.exec_driver_sql("PRAGMA database_list"):
            if name == "main" and path:
                return str(Path(path).resolve())
        return id(connection.connection.driver_connection)

    def session_state(self, connection: Connection) -> Hashable:
        rows = connection.exec_driver_sql("PRAGMA database_list").all()
        return tuple(sorted((row[1], row[2]) for row in rows if row[1] != "temp"))

    def adopt(self, connection: Connection) -> Callable[[], None]:
        return make_real(connection)

    def watching_for_blockers(self) -> AbstractAsyncContextManager[Callable[[], tuple[str, ...]]]:
        return contextlib.nullcontext(lambda: ())  # who holds a file's lock cannot be found out

    def resolve(self, connection: Connection, table: VersionTable) -> VersionTable:
        return table

    def interrupter(self, connection: Connection) -> Callable[[], None] | None:
        driver = connection.connection.driver_connection
        interrupt = getattr(driver, "interrupt", None)
        if interrupt is None:
            return None

        def call() -> None:
            answer = interrupt()
            if hasattr(answer, "send"):  # aiosqlite's coroutine does its work at the first step
                with contextlib.suppress(StopIteration):
                    answer.send(None)

        return call

    def configure_options(self) -> dict[str, Any]:
        return {"transactional_ddl": True}

    def classify(self, error: BaseException) -> FailureKind | None:
        return classifying.classify(error)

    async def debris(self) -> tuple[str, ...]:
        if self.file is None or not self.file.exists():
            return ()
        file = self.file

        def find() -> tuple[str, ...]:
            with reading(file) as connection:
                rows = connection.execute(
                    "SELECT name FROM sqlite_master WHERE name GLOB '_alembic_tmp_*'"
                ).fetchall()
            return tuple(f"table {row[0]} of an unfinished batch operation" for row in rows)

        return await in_thread(find)

    def unfinished(self) -> bool:
        return self.file is not None and journal.path_for(self.file).exists()

    async def recover(self, tables: Sequence[VersionTable]) -> str | None:
        if self.file is None:
            return None
        file = self.file
        return await to_the_end(in_thread(lambda: recover(file, tables)))

    async def snapshot(
        self,
        stamp: str,
        heads: tuple[str, ...],
        wanted: tuple[str, ...],
        tables: Sequence[VersionTable],
        *,
        folder: Path | None = None,
        disconnect_others: bool = False,
        how: Copying = "auto",
        binaries: Path | None = None,
    ) -> Snapshot:
        file = self._file("take a snapshot of")
        place = _snapshot_path(file, stamp, folder)
        cancelled = threading.Event()

        def take() -> journal.Entry:
            place.parent.mkdir(parents=True, exist_ok=True)
            ensure_space(file, place.parent)
            copying.copy(file, place, cancelled=cancelled.is_set)
            try:
                for table in tables:
                    found = verify(place, table.name, preread=True)
                    if not set(found) <= set(heads):
                        raise sqlite3.DatabaseError(
                            f"the snapshot {place} is at {found}, the database at {heads}"
                        )
                names = tuple(table.name for table in tables)
                entry = journal.Entry("migrating", str(place), heads, wanted, time.time(), names)
                journal.write(file, entry)
            except BaseException:
                remove(place)
                raise
            return entry

        self._entry = await to_the_end(in_thread(take), cancelled.set)
        return Snapshot(str(place), heads, stamp)

    async def restore(self, snapshot: Snapshot, *, disconnect_others: bool = False) -> None:
        file = self._file("restore")
        place = Path(snapshot.place)
        entry = self._entry
        if entry is None:
            raise RefusedError(f"{place} is no snapshot of this run; nothing was changed")

        def put_back() -> journal.Entry:
            if not place.exists():
                raise RefusedError(f"the snapshot {place} is gone; nothing was changed")
            journal.write(file, replace(entry, state="restoring"))
            copying.restore(place, file)
            journal.write(file, entry)
            return entry

        self._entry = await to_the_end(in_thread(put_back))

    async def close(self) -> None:
        if self._entry is not None and self.file is not None:
            file, self._entry = self.file, None
            await to_the_end(in_thread(lambda: journal.clear(file)))

    async def prune(self, keep: int, *, folder: Path | None = None) -> tuple[str, ...]:
        if self.file is None:
            return ()
        file = self.file

        def delete() -> tuple[str, ...]:
            home = folder or file.parent
            ours = re.compile(
                re.escape(_snapshot_path(file, "", folder).name) + "[0-9A-Za-z]{1,28}"
            )
            found = sorted(p for p in home.iterdir() if ours.fullmatch(p.name))
            old = found[: max(len(found) - keep, 0)]
            for path in old:
                remove(path)
            if old:
                sync_folder(home)
            return tuple(str(path) for path in old)

        return await to_the_end(in_thread(delete))

    @asynccontextmanager
    async def side(self, stamp: str) -> AsyncIterator[Side]:
        place = beside(self._file("rebuild"), f".side-{stamp}")
        engine = self.access.engine(str(place))
        side = SideFile(engine, self.access.url.set(database=str(place), query={}), str(place))
        try:
            await in_thread(lambda: _empty(place))
            yield side
        finally:
            await to_the_end(engine.dispose())
            if not side.needed:
                await to_the_end(in_thread(lambda: remove(place)))

    async def take_over(
        self,
        side: Side,
        stamp: str,
        tables: Sequence[VersionTable],
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
    ) -> str | None:
        file = self._file("replace")
        assert isinstance(side, SideFile)
        await side.engine.dispose()
        if self.access.application is not None:
            await self.access.application.dispose()

        def put_in_place() -> Path | None:
            new = Path(side.place)
            ensure_space(new, file.parent)
            heads = tuple(sorted({h for table in tables for h in verify(new, table.name)}))
            aside = copying.set_aside(file, "purged", datetime.now(UTC)) if set_aside else None
            entry = journal.Entry("restoring", str(new), heads, heads, time.time())
            journal.write(file, entry)
            side.needed = True
            try:
                copying.restore(new, file)
            except TimeoutError as error:  # the live file is untouched
                journal.clear(file)
                side.needed = False
                if aside is not None:
                    remove(aside)
                raise RefusedError(str(error)) from error
            journal.clear(file)
            side.needed = False
            return aside

        aside = await to_the_end(in_thread(put_in_place))
        self._entry = None
        return str(aside) if aside else None

    async def refresh(self) -> None:
        """Nothing: SQLite prepares a statement again when the schema has changed."""

    def _file(self, act: str) -> Path:
        if self.file is None:
            raise RefusedError(
                f"cannot {act} a SQLite database in memory; nothing was changed. It is rebuilt "
                "by restarting the application"
            )
        return self.file


def _snapshot_path(file: Path, stamp: str, folder: Path | None) -> Path:
    if folder is None:
        return beside(file, f".snapshot-{stamp}").absolute()
    # databases of one name may keep their copies in one folder
    whose = hashlib.blake2b(str(file.resolve()).encode(), digest_size=5).hexdigest()
    return folder.absolute() / f"{file.name}.{whose}.snapshot-{stamp}"


def _empty(place: Path) -> None:
    """A database of one page: a zero-byte file could not be told from one that lost its data."""
    remove(place)
    with contextlib.closing(connect(place, "rwc")) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("DROP TABLE t")
