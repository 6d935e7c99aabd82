"""A file that only the application can open is never taken for a corrupt one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.notes_application import GOOD, Application

from automigrator import MigrationError, Migrator, Target, TargetReport
from automigrator.backends.access import Access
from automigrator.backends.sqlite.backend import SQLite
from automigrator.backends.sqlite.foreign import ForeignFormatError

TABLES: list[Any] = []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


def encrypt(path: Path) -> bytes:
    """A stand-in for a real cipher: every byte of the file is another one."""
    path.write_bytes(bytes(byte ^ 0x5A for byte in path.read_bytes()))
    return path.read_bytes()


def opened_with(file: Path, key: int) -> AsyncEngine:
    async def creator() -> aiosqlite.Connection:
        plain = file.with_name("decrypted")
        plain.write_bytes(bytes(byte ^ key for byte in read(file)))
        return await aiosqlite.connect(plain)

    return create_async_engine("sqlite+aiosqlite://", async_creator=creator)


async def looked(engine: AsyncEngine | str, file: Path, tmp_path: Path) -> BaseException:
    backend = SQLite(Access(Target(engine, tmp_path)))
    backend.file = file
    with pytest.raises((sqlite3.DatabaseError, ForeignFormatError)) as caught:
        await backend.look(TABLES)
    return caught.value


async def test_a_file_that_the_application_alone_can_read_is_refused_and_says_what_to_do(
    tmp_path: Path, file: Path
) -> None:
    Application(tmp_path, f"sqlite+aiosqlite:///{file}")
    encrypt(file)
    error = await looked(opened_with(file, 0x5A), file, tmp_path)
    assert isinstance(error, ForeignFormatError)
    assert "only the application's own connection can read" in str(error)


async def test_a_wrong_key_is_not_taken_for_damage(tmp_path: Path, file: Path) -> None:
    Application(tmp_path, f"sqlite+aiosqlite:///{file}")
    encrypt(file)
    error = await looked(opened_with(file, 0x11), file, tmp_path)
    assert isinstance(error, ForeignFormatError)
    assert "damage cannot be told from a wrong key" in str(error)


def by_a_listener_of_its_own(file: Path) -> AsyncEngine:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(*_: object) -> None:
        raise sqlite3.DatabaseError("the key server is away")

    return engine


@pytest.mark.long("[vfs", "listener that fails")
@pytest.mark.parametrize(
    "database",
    [
        lambda file: f"sqlite+pysqlcipher://:key@/{file}",
        lambda file: f"sqlite+aiosqlite:///file:{file}?vfs=unix&uri=true",
        lambda file: create_async_engine(f"sqlite+aiosqlite:///file:{file}?vfs=unix&uri=true"),
        by_a_listener_of_its_own,
    ],
    ids=["sqlcipher", "vfs", "engine with a vfs", "listener that fails"],
)
async def test_in_doubt_nothing_is_purged(
    tmp_path: Path, file: Path, database: Callable[[Path], Any]
) -> None:
    application = Application(tmp_path, f"sqlite+aiosqlite:///{file}")
    application.deploy(GOOD)
    encrypted = encrypt(file)
    target = Target(database(file), application.config)
    for name in ("purge", "backup-restore"):
        report = await failed(Migrator(target, mode="migrate", recovery=[name, "purge"]))
        assert [failure.kind for failure in report.failures] == ["env"], report
        assert "nothing was touched" in report.failures[0].message
    assert read(file) == encrypted
    status = await Migrator(target).check()
    assert status.targets[0].problem is not None and status.targets[0].problem.kind == "env"


async def test_a_listener_that_sets_a_pragma_does_not_hide_damage(
    tmp_path: Path, file: Path
) -> None:
    Application(tmp_path, f"sqlite+aiosqlite:///{file}")
    encrypt(file)
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")

    @event.listens_for(engine.sync_engine, "connect")
    def enforce(dbapi: Any, _: object) -> None:
        cursor = dbapi.cursor()
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        finally:
            cursor.close()

    error = await looked(engine, file, tmp_path)
    assert not isinstance(error, ForeignFormatError)
    assert SQLite(Access(Target(engine, tmp_path))).classify(error).kind == "corrupt"
    await engine.dispose()


async def failed(migrator: Migrator) -> TargetReport:
    with pytest.raises(MigrationError) as info:
        await migrator.run()
    return info.value.report.targets[0]


def read(path: Path) -> bytes:
    return path.read_bytes()
