"""Which file system a path is on, for messages: its kind, and where it is mounted."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")


def file_system_of(path: Path) -> str:
    """Say which file system a path is on; in general words where the system does not tell."""
    found = ("", Path())
    with suppress(OSError, ValueError):  # not every system has such a list
        path = path.resolve()
        for line in _MOUNTS.read_text("utf-8", "replace").splitlines():
            before, after = line.split(" - ", 1)
            point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), before.split(" ")[4])
            mount = Path(point)
            # of several at one place the last is on top
            if mount in (path, *path.parents) and len(mount.parts) >= len(found[1].parts):
                found = (after.split(" ")[0], mount)
    kind, mount = found
    return f"the file system {kind} that is mounted at {mount}" if kind else "its file system"
