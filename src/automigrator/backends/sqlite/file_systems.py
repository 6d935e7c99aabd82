"""Which file system a path is on: its kind, and where it is mounted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")


def file_system_of(path: Path) -> str:
    """Say which file system a path is on; in general words where the system does not tell."""
    kind, point = "", Path()
    path = path.resolve()
    for each, mount in _mounts():
        # of several at one place the last is on top
        if mount in (path, *path.parents) and len(mount.parts) >= len(point.parts):
            kind, point = each, mount
    return f"the file system {kind} that is mounted at {point}" if kind else "its file system"


def is_mounted_alone(path: Path) -> bool:
    """Tell whether a file is mounted by itself, so that its folder is not the one it came from."""
    # a mount from the same file system has its device number
    return os.path.ismount(path) or path in {point for _, point in _mounts()}


def _mounts() -> Iterator[tuple[str, Path]]:
    """The kind and the place of each mount; none where the system has no such list."""
    with suppress(OSError, ValueError):
        for line in _MOUNTS.read_text("utf-8", "replace").splitlines():
            before, after = line.split(" - ", 1)
            place = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), before.split(" ")[4])
            yield after.split(" ")[0], Path(place)
