"""Keeps what a benchmark has measured in its page of the documentation."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARKER = "<!-- measured -->"


def write(name: str, found: str) -> None:
    """Put `found`, and the commit, in the place of all after the marker in `docs/<name>`."""
    path = ROOT / "docs" / name
    head, _, _ = path.read_text("utf-8").partition(MARKER)
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=7"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    path.write_text(f"{head}{MARKER}\n\n{found}\n\nMeasured at commit {commit}.\n", "utf-8")
