"""Snapshots: verified copies of a target's data, and how they are to be made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Copying = Literal["auto", "template", "dump"]

"""How a snapshot is made, where a database knows more than one way."""


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """How a snapshot, or a copied side, is made.

    `folder` is where files go; by default they stay beside the database, and none are made of one
    on a server. With `disconnect_others` the sessions of others are ended that are in the way.
    `how` and `binaries`, the folder of the client programs, matter to PostgreSQL alone.
    """

    folder: Path | None = None
    disconnect_others: bool = False
    how: Copying = "auto"
    binaries: Path | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified copy of a target's data at `heads`; `place` is a file or a database."""

    place: str
    heads: tuple[str, ...]
    stamp: str
