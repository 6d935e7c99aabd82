"""Walks along a history: upgrades from every revision, and round trips."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, MetaData, Table
from sqlalchemy.engine import Connection

from automigrator import MigrationError
from automigrator.status import PendingRevision
from automigrator.testing.contents import connected
from pytest_automigrator import drivers
from pytest_automigrator.application import awaited
from pytest_automigrator.databases import Databases
from pytest_automigrator.state import State, differences, state_of

Rows = Mapping[str, Sequence[Mapping[str, Any]]]

Seed = Callable[[URL, str], Sequence[str]]
"""Puts rows into a database that has just come to a revision; returns the tables left empty."""


class Walks:
    """The databases that a test walks with; all are removed at its end.

    `revisions`: the history's, in an order in which they can run.
    """

    def __init__(
        self, databases: Databases, folder: Path, revisions: Sequence[PendingRevision]
    ) -> None:
        self._databases, self._folder = databases, folder
        self.revisions = revisions
        self.application = databases.application
        self._made: list[URL] = []
        self.left_empty: set[str] = set()
        """Tables that no row could be put into."""

    def at(self, revision: str) -> URL:
        """A database at a revision, from its template."""
        self._made.append(self._databases.clone(revision, self._folder))
        return self._made[-1]

    def copy(self, url: URL) -> URL:
        """A copy of one of them."""
        self._made.append(self._databases.copy(url, self._folder))
        return self._made[-1]

    def drop(self, url: URL) -> None:
        """Remove one of them."""
        self._made.remove(url)
        self._databases.drop(url)

    def close(self, *, but: URL | None = None) -> None:
        """Remove the databases, but one."""
        for url in self._made:
            if url != but:
                self._databases.drop(url)
        self._made = [] if but is None else [but]

    def _state(self, url: URL) -> State:
        return state_of(url, self.application.version_tables(url))

    def starts(self, most: int | None) -> list[str]:
        """The revisions that upgrades start from: all, or so many with the same space between."""
        ids = [each.revision for each in self.revisions[:-1]]
        if most is None or len(ids) <= most:
            return ids
        step = len(ids) / most
        return [ids[int(number * step)] for number in range(most - 1)] + [ids[-1]]

    def upgrades(self, most: int | None) -> Iterator[str]:
        """Upgrade from each start to the end, and compare the schemas; yields what is wrong."""
        walker = self.at("base")
        expected = self._state(self.at("heads")).schema
        for start in self.starts(most):
            try:
                self.application.migrate(walker, start)
                url = self.copy(walker)
                self.application.migrate(url)
            except MigrationError as error:
                yield f"from {start}: {error}"
                return
            found = State(self._state(url).schema, {})
            for line in differences(State(expected, {}), found):
                yield f"from {start}, the schema is not that of one run from base: {line}"
            self.close(but=walker)

    def round_trips(self, most: int | None, seed: Seed, lossy: frozenset[str]) -> Iterator[str]:
        """Up, down and up again by each revision, compared each time; yields what is wrong."""
        chosen = self.revisions if most is None else self.revisions[-most:]
        walker: tuple[str, URL] | None = None
        for revision in chosen:
            if len(revision.down_revision) > 1:
                walker = None  # a merge: its way down is two ways
                continue
            parent = "".join(revision.down_revision) or "base"
            if walker is None or walker[0] != parent:
                walker = (parent, self.at(parent))
            self.left_empty.update(seed(walker[1], parent))
            trip = self.copy(walker[1])
            wrong = list(self._round_trip(trip, parent, revision.revision))
            if revision.revision not in lossy:
                yield from wrong
            try:
                self.application.migrate(walker[1], revision.revision)
            except MigrationError as error:
                if not wrong:
                    yield f"{revision.revision}: {error}"
                walker = None
            else:
                walker = (revision.revision, walker[1])
            self.close(but=walker[1] if walker else None)

    def _round_trip(self, url: URL, parent: str, revision: str) -> Iterator[str]:
        before = self._state(url)
        step = "up"
        try:
            self.application.migrate(url, revision)
            upgraded = self._state(url)
            step = "down"
            self.application.downgrade(url, parent)
            lines = differences(before, self._state(url))
            yield from (f"{revision}: up and down again: {line}" for line in lines)
            if lines:
                return
            step = "up again"
            self.application.migrate(url, revision)
            lines = differences(upgraded, self._state(url))
            yield from (f"{revision}: up, down and up again: {line}" for line in lines)
        except MigrationError as error:
            if step != "down" or not _is_declared(error):
                yield f"{revision}: {step}: {error}"


def _is_declared(error: MigrationError) -> bool:
    """Whether the downgrade itself says that there is none."""
    failures = error.report.targets[0].failures
    cause: BaseException | None = failures[-1].error if failures else None
    # wherever it is in the chain; a user's downgrade raises it on purpose, it is no gap of ours
    while cause is not None and not isinstance(cause, NotImplementedError):  # see above
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def insert(url: URL, rows: Rows) -> None:
    """Put rows of the user's into tables, by their names; types are those of the database."""

    async def work() -> None:
        async with connected(drivers.asynchronous(url)) as connection:
            for name, values in rows.items():
                schema, _, bare = name.rpartition(".")
                reflect = partial(Table, bare, MetaData(), schema=schema or None)

                def reflected(sync: Connection, of: partial[Table] = reflect) -> Table:
                    return of(autoload_with=sync)

                table = await connection.run_sync(reflected)
                await connection.execute(table.insert(), [dict(each) for each in values])
            await connection.commit()

    awaited(work)


@contextmanager
def walking(
    databases: Databases, folder: Path, revisions: Sequence[PendingRevision]
) -> Iterator[Walks]:
    """Context manager: the walks of one test."""
    walks = Walks(databases, folder, revisions)
    logger = logging.getLogger("automigrator")
    logger.addFilter(_tell_nobody)  # what fails on the way is told once, by the test
    try:
        yield walks
    finally:
        logger.removeFilter(_tell_nobody)
        walks.close()


def _tell_nobody(record: logging.LogRecord) -> bool:
    return False
