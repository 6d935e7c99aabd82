"""Where the dumps of a target are kept, and how a file gets there whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args
from urllib.parse import quote

from sqlalchemy import URL

from automigrator.errors import RefusedError

SPACE_FACTOR = 1.1

"""How much more room a dump may need than the tables it is made of: rows may not compress."""

_SPARE = 16 << 20

_PARTIAL = ".partial"

_CHUNK = 1 << 20


Kind = Literal["snapshot", "replaced"]

"""`replaced` is what a restore has replaced."""


class DumpFile(NamedTuple):
    """A finished dump of a target."""

    stamp: str
    path: Path


def path_of(folder: Path, url: URL, stamp: str, kind: Kind = "snapshot") -> Path:
    """Where the dump of the database of `url` goes."""
    return folder.absolute() / f"{_beginning(url, kind)}{stamp}.dump"


def absolute(path: Path) -> str:
    """The path for a start in another working directory."""
    return str(path.absolute())


def found(folder: Path, url: URL, kind: Kind = "snapshot") -> list[DumpFile]:
    """The finished dumps of a target in a folder, oldest first; none where it is absent."""
    beginning = re.escape(_beginning(url, kind))
    name = re.compile(rf"{beginning}([0-9A-Za-z]{{1,28}})\.dump")
    matches = [(name.fullmatch(each.name), each) for each in _entries(folder)]
    return sorted(DumpFile(match[1], path) for match, path in matches if match)


def partial(path: Path) -> Path:
    """What the file is called while it is being written."""
    return path.with_name(path.name + _PARTIAL)


def clear_partials(folder: Path, url: URL) -> None:
    """Delete what a killed process has not finished; under the target's lock alone."""
    for each in _entries(folder):
        ours = each.name.startswith(tuple(_beginning(url, k) for k in get_args(Kind)))
        if ours and each.name.endswith(_PARTIAL):
            each.unlink(missing_ok=True)


def make_room(folder: Path, size: int) -> None:
    """Make the folder, for its owner alone. Raises RefusedError without room for `size`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    needed, free = int(size * SPACE_FACTOR) + _SPARE, shutil.disk_usage(folder).free
    if free < needed:
        raise RefusedError(
            f"a dump of {size:,} bytes of tables needs {needed:,} bytes free in {folder}, there "
            f"are {free:,}; nothing was changed"
        )


def create_private(path: Path) -> None:
    """An empty file that nobody else may read, whatever the umask says."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def measured(path: Path) -> tuple[int, str]:
    """The size of a file, and a digest of all of it."""
    digest, size = hashlib.blake2b(digest_size=32), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


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


def _entries(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield from folder.iterdir()


def _beginning(url: URL, kind: Kind) -> str:
    # two servers may have a database of the same name, and one folder
    where = f"{url.host or ''}:{url.port or ''}:{sorted(url.query.items())}:{url.database}"
    digest = hashlib.blake2b(where.encode(), digest_size=4).hexdigest()
    name = quote(url.database or "", safe=" ")[:80]
    return f"{name}__automigrator_{kind}_{digest}_"
