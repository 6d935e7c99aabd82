"""Keeps what a benchmark has measured in its page of the documentation."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
MARKER = "<!-- measured -->"


def write(name: str, found: str) -> None:
    """Put `found` in the place of all that follows the marker in `docs/<name>`."""
    path = ROOT / "docs" / name
    head, _, _ = path.read_text("utf-8").partition(MARKER)
    path.write_text(f"{head}{MARKER}\n\n{found}\n", "utf-8")
