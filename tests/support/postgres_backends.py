"""PostgreSQL backends for tests, of a target that has no history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from automigrator.backends.access import Access
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.target import Target

Do = Callable[..., list[Any]]
"""Runs statements in the target's database; returns the last one's rows."""


def made(url: Any, maintenance: str | None = None) -> PostgreSQL:
    return PostgreSQL(Access(Target(url, Path(__file__))), maintenance)


def silent(seconds: float, leader: str) -> None:
    """Nobody wants to know who is waited for."""
