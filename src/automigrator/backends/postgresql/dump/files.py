"""The files of a target's dumps: their names, their room, how one is written and gets its name."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Literal, NamedTuple, get_args
from urllib.parse import quote

from sqlalchemy import URL

from automigrator.backends.postgresql.dump import programs
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.names import SCHEMA_OF_OURS
from automigrator.errors import RefusedError
from automigrator.support.concurrency import background, in_thread
from automigrator.support.loggers import logger_of

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


def path_of(folder: Path, url: URL, stamp: str, kind: Kind = "snapshot") -> Path:
    """Name the dump of the database of `url`."""
    return folder.absolute() / f"{_beginning(url, kind)}{stamp}.dump"


def found(folder: Path, url: URL, kind: Kind = "snapshot") -> list[DumpFile]:
    """Return the finished dumps of a target in a folder, oldest first."""
    beginning = re.escape(_beginning(url, kind))
    name = re.compile(rf"{beginning}([0-9A-Za-z]{{1,28}})\.dump")
    matches = [(name.fullmatch(each.name), each) for each in folder.absolute().glob("*.dump")]
    return sorted(DumpFile(match[1], str(path)) for match, path in matches if match)


def delete(dump: DumpFile) -> None:
    Path(dump.name).unlink(missing_ok=True)


def partial(path: Path) -> Path:
    """Name the file while it is being written."""
    return path.with_name(path.name + _PARTIAL)


async def write(
    access: ExclusiveAccess, path: Path, size: int, clients: Path, *special: str
) -> None:
    """Write all but what is ours to the file that is not yet called `path`, and read it whole.

    `size` is that of all tables, in bytes; `clients` is the programs' folder. Raises RefusedError.
    """
    room = size if access.access.check_room else 0
    target = await in_thread(lambda: _new_file(path, access.urls[0], room))
    logger.info("dumping database %r, %s bytes of tables, to %s", access.live, f"{size:,}", path)
    env = await access.environment()

    async def report() -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            logger.info("%s: %s bytes so far", target, f"{target.stat().st_size:,}")

    # the default compresses twice as long, while the application waits, for a tenth less
    options = ["-Fc", "-Z1", "--no-password", "-N", SCHEMA_OF_OURS, "-f", str(target)]
    async with background(report()):
        await programs.run(clients / "pg_dump", *options, *special, env=env)
    await programs.run(clients / "pg_restore", "-f", "/dev/null", str(target), env=env)


def _new_file(path: Path, url: URL, size: int) -> Path:
    """Make an empty file for a dump, which is not called `path` yet; returns where it is.

    What a killed process has not finished is deleted, so call it under the target's lock alone.
    Raises RefusedError where there is no room.
    """
    folder = path.parent
    beginnings = tuple(_beginning(url, kind) for kind in get_args(Kind))
    for each in folder.glob(f"*{_PARTIAL}"):
        if each.name.startswith(beginnings):
            each.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    needed, free = int(size * SPACE_FACTOR) + _SPARE, shutil.disk_usage(folder).free
    if size and free < needed:
        raise RefusedError(
            f"a dump of {size:,} bytes of tables needs {needed:,} bytes free in {folder}, there "
            f"are {free:,}; nothing was changed. Free room, or go without this check with "
            "Target(check_room=False)"
        )
    create_private(partial(path))
    return partial(path)


def create_private(path: Path) -> None:
    """Make an empty file that nobody else may read, whatever the umask says."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def measured(path: Path) -> tuple[int, str]:
    """Return the size of a file, and a digest of all of it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32))
        return file.tell(), digest.hexdigest()


def publish(path: Path) -> None:
    """Give a file that is complete its name, so that it survives a power cut."""
    with partial(path).open("rb") as file:
        os.fsync(file.fileno())
    partial(path).rename(path)
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
