"""The example backend passes automigrator's cases for backends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from automigrator.testing import BackendConformance, Databases


class ExampleFiles:
    """Fresh databases for one case, in a folder that is deleted after it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def url(self, name: str = "app") -> URL:
        return URL.create("exampledb+aiosqlite", database=str(self._folder / f"{name}.db"))

    async def places(self) -> frozenset[str]:
        return frozenset(map(str, self._folder.glob("*.db")))

    def close(self) -> None:
        """Do nothing: the folder goes."""


class TestExampleDB(BackendConformance):
    databases = ("exampledb",)

    def open_databases(self, kind: str, folder: Path, fixture: Callable[[str], Any]) -> Databases:
        return ExampleFiles(folder)
