"""The heads of a folder of revision files, as Alembic's own graph has them, or None."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from automigrator.backends.contract.checksums import checksum, whole
from automigrator.frozen import Frozen

if TYPE_CHECKING:
    from pathlib import Path

    from automigrator.migrations.static.header import Header

_BUFFER = 32 * 1024

Signature = tuple[tuple[str, int, int], ...]

"""Path, mtime in nanoseconds and size of every file."""


class Heads(Frozen):
    """The heads of a history, by their ids."""

    heads: frozenset[str]
    """The revisions that no other one follows."""
    rows: frozenset[str]
    """The rows that the version table of a database at all heads has.

    Fewer than `heads` where a revision depends on another branch: its row stands for both.
    """
    known: frozenset[str]
    """All revisions."""
    checksum: str = ""
    """The one checksum of all their files."""


def files(locations: Iterable[Path], *, recursive: bool) -> Signature:
    """The revision files by Alembic's rules, links followed, each once.

    Raises OSError for a folder that is not there.
    """
    found: dict[str, tuple[str, int, int]] = {}
    folders = [str(location) for location in locations]
    for folder in folders:
        for entry in list(os.scandir(folder)):
            name = entry.name
            if name.endswith(".py") and not name.startswith((".#", "__init__")):
                status = entry.stat()
                path = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                found[path] = (path, status.st_mtime_ns, status.st_size)
            elif recursive and not name.endswith("__pycache__") and entry.is_dir():
                folders.append(entry.path)
    return tuple(found.values())


def heads_of(files: Signature) -> Heads | None:
    """The heads of these files; None where one must be run to know, or Alembic would complain."""
    # local: its patterns take longer to compile than a remembered folder to recall
    from automigrator.migrations.static.header import header_of

    headers: dict[str, Header] = {}
    checksums: dict[str, str] = {}
    for path, _, size in files:
        text = _read(path, size)
        header = header_of(text)
        if header is None or header.revision in headers:
            return None
        headers[header.revision], checksums[header.revision] = header, checksum(text)
    return _resolved(headers, whole(checksums))


def checksums_of(files: Signature) -> dict[str, str]:
    """The checksum of each revision's file, as far as their text names them."""
    from automigrator.migrations.static.header import header_of  # local: as above

    texts = [_read(path, size) for path, _, size in files]
    found = [(header_of(text), text) for text in texts]
    return {header.revision: checksum(text) for header, text in found if header is not None}


def _resolved(headers: dict[str, Header], checksum: str) -> Heads | None:
    labels: dict[str, str] = {}
    for header in headers.values():
        for label in header.labels:
            if label in labels or label in headers:
                return None
            labels[label] = header.revision
    children: dict[str, list[str]] = {}
    waiting: dict[str, int] = {}
    down: set[str] = set()
    depended: set[str] = set()
    for revision, header in headers.items():
        dependencies = {labels.get(name, name) for name in header.depends_on}
        parents = {*header.down, *dependencies}
        waiting[revision] = len(parents)
        for parent in parents:
            children.setdefault(parent, []).append(revision)
        down.update(header.down)
        depended |= dependencies
    if not children.keys() <= headers.keys() or _loops(children, waiting):
        return None
    known = frozenset(headers)
    return Heads(known - down, known - down - depended, known, checksum)


def _loops(children: dict[str, list[str]], waiting: dict[str, int]) -> bool:
    """Kahn's algorithm: whether some revision, `waiting` for its parents, never gets all."""
    ready = [revision for revision, count in waiting.items() if not count]
    for revision in ready:
        for child in children.get(revision, ()):
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    return len(ready) != len(waiting)


def _read(path: str, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        text = os.read(descriptor, max(size, _BUFFER) + 1)
        while more := os.read(descriptor, _BUFFER) if len(text) > size else b"":
            text += more
        return text
    finally:
        os.close(descriptor)
