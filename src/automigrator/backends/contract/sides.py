"""The part of a lock's hold that makes databases on the side of a target; a backend may lack it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.contract.snapshots import DEFAULT, SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.retention import Limits


@dataclass(slots=True)
class Side:
    """A database on the side: fresh and not yet in the target's place, or a copy of it.

    `engine` and `url` lead to it; `place` is its name or its file.
    """

    engine: AsyncEngine
    url: URL
    place: str


class Sides(ABC):
    """Databases beside one target, under its lock.

    Each method raises RefusedError, before anything is changed, where it cannot be done safely.
    """

    @abstractmethod
    def fresh(self, stamp: str) -> AbstractAsyncContextManager[Side]:
        """Context manager: an empty database, removed at exit unless it took the target's place."""

    @abstractmethod
    def copy(
        self, stamp: str, options: SnapshotOptions = DEFAULT
    ) -> AbstractAsyncContextManager[Side]:
        """Context manager: a copy of the target as of one moment, removed at exit.

        Others may go on writing to the target. A copy never takes the target's place.
        """

    @abstractmethod
    async def ensure_replaceable(self, tables: Sequence[VersionTable]) -> None:
        """Raise RefusedError where the target shares its database with somebody else."""

    @abstractmethod
    async def take_over(
        self,
        side: Side,
        stamp: str,
        tables: Sequence[VersionTable],
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
    ) -> str | None:
        """Put a fresh side in the target's place; return where the old data was set aside."""

    @abstractmethod
    async def prune_set_aside(self, limits: Limits) -> tuple[str, ...]:
        """Delete old data that `take_over` set aside beyond the limits, and return it."""
