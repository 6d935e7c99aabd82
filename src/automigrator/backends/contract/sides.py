"""Sides."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine


class Side(Protocol):
    """A database on the side: fresh and not yet in the target's place, or a copy of it."""

    @property
    def engine(self) -> AsyncEngine: ...

    @property
    def url(self) -> URL: ...

    @property
    def place(self) -> str: ...
