"""A file system of a few megabytes, to be filled or made read-only."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(megabytes: int = 48) -> Iterator[Path]:
    """Where every user can reach it; skips the test where this user may not mount."""
    place = Path(tempfile.mkdtemp(prefix="automigrator-small-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=1777", "none", str(place)]
    try:
        place.chmod(0o755)
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this user may not mount a small file system")
        yield place
        subprocess.run(["umount", "-l", str(place)], check=True)
    finally:
        place.rmdir()
