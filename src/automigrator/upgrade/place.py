"""Where an env.py is driven to: the target's database, or one on the side."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine


@dataclass(frozen=True, slots=True)
class Place:
    """The database to migrate, and an engine of ours that leads there."""

    engine: AsyncEngine
    url: URL
    in_place: bool = False
    """Whether the database lives in the engine's own connection alone."""
