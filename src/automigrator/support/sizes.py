"""Numbers of bytes, for a person."""

from __future__ import annotations


def sized(size: int) -> str:
    """Say a number of bytes with a unit."""
    amount = float(size)
    for unit in ("bytes", "KB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
