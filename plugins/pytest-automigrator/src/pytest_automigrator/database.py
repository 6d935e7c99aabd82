"""A test's own database at some revision: write rows, upgrade, look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import URL, Engine, create_engine, text

from automigrator import Report
from automigrator.testing.contents import Contents, connected, contents
from pytest_automigrator import drivers
from pytest_automigrator.application import Application, awaited

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class DatabaseAt:
    """A database that was brought to a revision, for one test alone.

    `url` has the application's driver, `plain_url` none.
    """

    def __init__(self, application: Application, url: URL) -> None:
        self._application, self.plain_url = application, url
        self.url = drivers.applications(url, application.settings.driver)

    def __repr__(self) -> str:
        return f"DatabaseAt({self.url!r})"

    @cached_property
    def engine(self) -> Engine:
        """A sync engine."""
        return create_engine(drivers.sync(self.plain_url, self._application.settings.driver))

    def upgrade(self, revision: str | None = None) -> Report:
        """Upgrade to a revision; default: the application's. Raises MigrationError."""
        return self._application.migrate(self.plain_url, revision)

    def downgrade(self, revision: str) -> Report:
        """Downgrade to a revision. Raises MigrationError."""
        return self._application.downgrade(self.plain_url, revision)

    def execute(self, sql: str, parameters: Parameters | None = None) -> None:
        """Run one statement, for each of several parameters if given, and commit it."""

        async def work() -> None:
            async with connected(drivers.asynchronous(self.plain_url)) as connection:
                await connection.execute(text(sql), parameters)
                await connection.commit()

        awaited(work)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
        """The rows that a SELECT finds."""

        async def work() -> list[Any]:
            async with connected(drivers.asynchronous(self.plain_url)) as connection:
                return list((await connection.execute(text(sql), parameters)).all())

        return awaited(work)

    def contents(self) -> Contents:
        """Every table with its columns and its sorted rows."""
        return awaited(lambda: contents(drivers.asynchronous(self.plain_url)))

    def close(self) -> None:
        """Close the engine."""
        if "engine" in vars(self):
            self.engine.dispose()
