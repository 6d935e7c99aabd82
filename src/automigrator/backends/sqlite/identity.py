"""Which file stands under a name: it is told by its device and inode, never by the name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Identity = tuple[int, int]

_MOUNTS = Path("/proc/self/mountinfo")


def identity_of(place: Path | int) -> Identity | None:
    """Return device and inode of a path, or of an open file; None where there is no such file."""
    try:
        status = os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


class Noted:
    """The file under a name, as it was when it was last noted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._noted: Identity | None = None
        self._replacing = 0

    def note(self) -> None:
        """Note the file that stands there now."""
        self._noted = identity_of(self.path)

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """Context manager: this process may replace the file, and notes it anew at the end."""
        self._replacing += 1
        try:
            yield
        finally:
            self._replacing -= 1
            with suppress(OSError):
                self.note()

    def is_another(self) -> bool:
        """Tell whether another file stands there now, or none; False where it cannot be told."""
        if self._replacing:
            return False
        if self._noted is None:  # it was not there yet
            with suppress(OSError):
                self.note()
            return False
        with suppress(OSError):
            return identity_of(self.path) != self._noted
        return False


def links_of(path: Path) -> int:
    """Return how many names a file has; 1 where there is none."""
    with suppress(FileNotFoundError):
        return path.stat().st_nlink
    return 1


def is_mounted_alone(path: Path) -> bool:
    """Tell whether a file is mounted by itself, so that its folder is not the one it came from."""
    if os.path.ismount(path):
        return True
    with suppress(OSError):  # another system has no such list
        # a mount from the same file system has its device number
        points = [line.split(" ")[4] for line in _MOUNTS.read_text("utf-8", "replace").splitlines()]
        return str(path) in {re.sub(r"\\([0-7]{3})", _unescaped, point) for point in points}
    return False


def _unescaped(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 8))
