"""The files of a target's dumps: their names, their room, how one is written and gets its name."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple, get_args
from urllib.parse import quote

from sqlalchemy import URL

from automigrator.backends.postgresql.dump import programs
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.names import SCHEMA_OF_OURS
from automigrator.errors import RefusedError
from automigrator.frozen import Frozen
from automigrator.retention import is_future
from automigrator.support.concurrency import background, in_thread
from automigrator.support.loggers import logger_of
from automigrator.support.owned_files import Owners, ensure_same

logger = logger_of(__name__)

SPACE_FACTOR = 1.1

"""How much more room a dump may need than the tables it is made of: rows may not compress."""

_SPARE = 16 << 20

_PARTIAL = ".partial"

_REPORT_S = 10.0

Kind = Literal["snapshot", "replaced"]

"""`replaced` is what a restore has replaced."""


class DumpFile(NamedTuple):
    """A finished dump of a target; its `name` has the folder in it."""

    stamp: str
    name: str


class Archive(Frozen):
    """An open dump: by its descriptor it is the same file whatever becomes of the name."""

    path: Path
    descriptor: int

    def begun(self) -> int:
        """Return the descriptor, to be read from the beginning by one program."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return self.descriptor

    def measured(self) -> tuple[int, str]:
        """Return the size, and a digest of all of it."""
        with open(self.begun(), "rb", closefd=False) as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32))
            return file.tell(), digest.hexdigest()


def path_of(folder: Path, url: URL, stamp: str, kind: Kind = "snapshot") -> Path:
    """Name the dump of the database of `url`."""
    return folder.absolute() / f"{_beginning(url, kind)}{stamp}.dump"


def found(folder: Path, url: URL, kind: Kind = "snapshot") -> list[DumpFile]:
    """Return the finished dumps of a target in a folder, oldest first.

    But none of a user who is a stranger to the folder, nor of the future.
    """
    beginning, owners = re.escape(_beginning(url, kind)), _owners(folder)
    name = re.compile(rf"{beginning}([0-9A-Za-z]{{1,28}})\.dump")
    matches = [(name.fullmatch(each.name), each) for each in folder.absolute().glob("*.dump")]
    return sorted(
        DumpFile(match[1], str(path))
        for match, path in matches
        if match and not is_future(match[1]) and owners.owns(path)
    )


def _owners(folder: Path) -> Owners:
    # the rows are for nobody who may merely write to the folder
    return Owners.of_folder(folder)._replace(mode=0o600)


def delete(dump: DumpFile) -> None:
    for each in (_description(Path(dump.name)), Path(dump.name)):  # never one without its dump
        each.unlink(missing_ok=True)


def describe(path: Path, text: str) -> None:
    """Write down, beside a dump that has its name, what it holds: its journal is closed one day."""
    with open(_owners(path.parent).create(_description(path)), "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def description(path: Path) -> bytes:
    """Read what was written down. Raises NotOursError, OSError and ValueError."""
    return _owners(path.parent).read(_description(path))


def _description(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def partial(path: Path) -> Path:
    """Name the file while it is being written."""
    return path.with_name(path.name + _PARTIAL)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Archive]:
    """Context manager: a finished dump. Raises NotOursError, and OSError."""
    descriptor = await in_thread(lambda: _owners(path.parent).open(path))
    try:
        yield Archive(path, descriptor)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def created(path: Path, url: URL) -> AsyncIterator[Archive]:
    """Context manager: a new file that nobody else may read, and that is not called `path` yet.

    It is deleted when the block raises. What a killed process has not finished is deleted, so
    call it under the target's lock alone. Raises NotOursError where a stranger has the name.
    """
    descriptor = await in_thread(lambda: _new_file(path, url))
    try:
        yield Archive(path, descriptor)
    except BaseException:
        await in_thread(lambda: _owners(path.parent).remove(partial(path)))
        raise
    finally:
        os.close(descriptor)


def _new_file(path: Path, url: URL) -> int:
    folder, ours = path.parent, Owners(os.geteuid(), os.getegid(), 0o600)
    ours.make_folder(folder)
    beginnings = tuple(_beginning(url, kind) for kind in get_args(Kind))
    named = [each for each in folder.iterdir() if each.name.startswith(beginnings)]
    owners = _owners(folder)
    _warn(owners, folder, named)
    owners.remove(*(each for each in named if each.name.endswith(_PARTIAL)))
    owners.ensure_free(path)
    return ours.create(partial(path))


def _warn(owners: Owners, folder: Path, named: list[Path]) -> None:
    if owners.opens(folder):
        logger.warning(
            "others may write to the folder of the dumps, %s: a file there counts only where it "
            "is of this process's user, the folder's owner or root",
            folder,
        )
    for stranger in [each for each in named if not owners.owns(each)][:3]:
        logger.warning("not counted, and left as it is: %s", owners.described(stranger))


async def write(
    access: ExclusiveAccess, archive: Archive, size: int, clients: Path, *special: str
) -> None:
    """Write all but what is ours to a file that has no name of its own yet, and read it whole.

    `size` is that of all tables, in bytes; `clients` is the programs' folder. Raises RefusedError.
    """
    if access.access.check_room:
        await in_thread(lambda: _ensure_room(archive.path.parent, size))
    path, descriptor = archive.path, archive.descriptor
    logger.info("dumping database %r, %s bytes of tables, to %s", access.live, f"{size:,}", path)
    env = await access.environment()

    async def report() -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            logger.info("%s: %s bytes so far", partial(path), f"{os.fstat(descriptor).st_size:,}")

    # the default compresses twice as long, while the application waits, for a tenth less
    options = ["-Fc", "-Z1", "--no-password", "-N", SCHEMA_OF_OURS]
    async with background(report()):
        await programs.run(clients / "pg_dump", *options, *special, env=env, stdout=descriptor)
    await programs.run(clients / "pg_restore", "-f", "/dev/null", env=env, stdin=archive.begun())


def _ensure_room(folder: Path, size: int) -> None:
    needed, free = int(size * SPACE_FACTOR) + _SPARE, shutil.disk_usage(folder).free
    if size and free < needed:
        raise RefusedError(
            f"a dump of {size:,} bytes of tables needs {needed:,} bytes free in {folder}, there "
            f"are {free:,}; nothing was changed. Free room, or go without this check with "
            "Target(check_room=False)"
        )


def publish(archive: Archive) -> None:
    """Give a file that is complete its name, so that it survives a power cut.

    Raises RefusedError where somebody has put another file there.
    """
    path, made = archive.path, os.fstat(archive.descriptor)
    os.fsync(archive.descriptor)
    ensure_same(partial(path), made)
    partial(path).rename(path)
    ensure_same(path, made)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _beginning(url: URL, kind: Kind) -> str:
    # two servers may have a database of the same name, and one folder
    where = f"{url.host or ''}:{url.port or ''}:{sorted(url.query.items())}:{url.database}"
    digest = hashlib.blake2b(where.encode(), digest_size=4).hexdigest()
    name = quote(url.database or "", safe=" ")[:80]
    return f"{name}__automigrator_{kind}_{digest}_"
