"""Snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Copying = Literal["auto", "template", "dump"]

"""How a snapshot is made, where a database knows more than one way."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified copy of a target's data at `heads`; `place` is a file or a database."""

    place: str
    heads: tuple[str, ...]
    stamp: str
