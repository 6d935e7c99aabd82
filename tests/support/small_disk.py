"""A file system of a test's own: a few megabytes to be filled, or one where files share blocks."""

from __future__ import annotations

import shutil
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


@contextmanager
def cloning_disk(kind: str, megabytes: int = 512) -> Iterator[Path]:
    """XFS or Btrfs in a sparse file; skips the test where there is none, or nobody may mount it."""
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    with tempfile.TemporaryDirectory(prefix="automigrator-clones-") as folder:
        image, place = Path(folder, "image"), Path(folder, "mounted")
        Path(folder).chmod(0o755)
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, capture_output=True)
        try:
            command = ["mount", "-o", "loop", str(image), str(place)]
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip(f"this user may not mount {kind}")
        try:
            place.chmod(0o1777)
            yield place
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
