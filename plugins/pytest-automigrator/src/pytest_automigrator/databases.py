"""Databases for tests: a template for each revision that is asked for, clones of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL

from pytest_automigrator.application import Application
from pytest_automigrator.digest import digest

HEAD = "heads"


class Kind(Protocol):
    """One kind of database: where its templates are, and how they are copied."""

    kind: str

    def template(self, key: str, make: Callable[[URL], object]) -> Any:
        """The template of a key, made where there is none."""

    def clone(self, template: Any, folder: Path) -> URL:
        """A database of its own; its URL names no driver."""

    def copy(self, url: URL, folder: Path) -> URL:
        """A copy of a clone that nobody is connected to."""

    def drop(self, url: URL) -> None:
        """Remove a clone."""

    def sweep(self, days: float) -> list[str]:
        """Remove what is left and unused; returns the names."""

    def close(self) -> None:
        """Remove all clones."""


class Databases:
    """The databases of one kind for one application."""

    def __init__(self, application: Application, kind: str) -> None:
        self.application, self._kind = application, kind
        self._templates: dict[str, Any] = {}

    @cached_property
    def source(self) -> Kind:
        """The server, or the folder of files; opened when it is first used."""
        return opened(self._kind, self.application.settings.postgresql)

    @cached_property
    def _digest(self) -> str:
        return digest(self.application, self._kind)

    def clone(self, revision: str, folder: Path) -> URL:
        """A database at a revision, `heads` for the application's own and `base` for none."""
        if revision not in self._templates:
            key = hashlib.blake2b(f"{self._digest} {revision}".encode(), digest_size=12).hexdigest()

            def make(url: URL) -> None:
                if revision != "base":
                    self.application.migrate(url, None if revision == HEAD else revision)

            self._templates[revision] = self.source.template(key, make)
        return self.source.clone(self._templates[revision], folder)

    def copy(self, url: URL, folder: Path) -> URL:
        """A copy of a clone, as it is by now."""
        return self.source.copy(url, folder)

    def drop(self, url: URL) -> None:
        """Remove a clone."""
        self.source.drop(url)

    def close(self) -> None:
        """Remove all clones, and leave the server."""
        if "source" in vars(self):
            self.source.close()


def opened(kind: str, postgresql: str) -> Kind:
    """The place of a kind's databases."""
    # each is imported where it is used
    if kind == "sqlite":
        from pytest_automigrator.sqlite import SQLite

        return SQLite()
    from pytest_automigrator.postgresql import PostgreSQL

    return PostgreSQL(postgresql)
