"""The SQL that an upgrade would run, statement by statement, with the revision that each is of."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL

from automigrator.backends.contract.values import VersionTable
from automigrator.errors import EnvError
from automigrator.migrations import alembic_private
from automigrator.migrations.execution import Migration
from automigrator.migrations.history import revision_id
from automigrator.migrations.isolation import alone_in_thread
from automigrator.migrations.offline_sql import Heads, run_offline

_OPTIONS = {"dialect_opts": {"paramstyle": "named"}}
"""A driver's own style would write each % twice."""


class Written(NamedTuple):
    """One statement, or where a transaction begins or ends, as offline mode writes it."""

    kind: Literal["begin", "commit", "statement"]
    revision: str | None
    """The one that it is of; None for what env.py writes before the first."""
    heads: Heads
    """Those in the version table before the statement, as far as whole revisions go."""
    sql: str = ""


class Captured(NamedTuple):
    """An upgrade, rendered."""

    written: tuple[Written, ...]
    table: VersionTable
    """Where the heads are kept, as env.py's offline mode names it."""
    revisions: Heads


async def captured(
    migration: Migration,
    table: VersionTable,
    heads: Heads | None,
    *,
    one_transaction: bool,
    url: URL | None = None,
) -> Captured:
    """Render the SQL from `heads` to the target's revision; None: there is no version table.

    `one_transaction`: whether all of it is in one, as env.py's online mode asks for. `url`: what
    env.py finds as `sqlalchemy.url`; default: the target's. Raises EnvError where env.py configures
    anything but one version table, and what rendering raises; nothing is connected.
    """
    options = {**_OPTIONS, "transaction_per_migration": not one_transaction}
    work = partial(_captured, migration, table, heads, url, options)
    return await alone_in_thread(migration.target, work)


def _captured(
    migration: Migration,
    table: VersionTable,
    heads: Heads | None,
    url: URL | None,
    options: Mapping[str, Any],
) -> Captured:
    capture = _Capture(heads or ())
    history, revision = migration.history, migration.target.revision

    def steps(script: ScriptDirectory, at: Heads) -> Iterator[Any]:
        history.adopt(script)
        return capture.observed(history.steps(revision, at))

    run_offline(
        migration,
        steps,
        io.StringIO(),
        {table: heads},
        url=url,
        options=options,
        configured=capture.configured,
    )
    if len(capture.tables) != 1:
        raise EnvError(
            f"env.py's offline mode configures {len(capture.tables)} version tables; one can be "
            "replayed"
        )
    return Captured(tuple(capture.written), capture.tables[0], tuple(capture.revisions))


class _Capture:
    """Listens to what Alembic writes."""

    def __init__(self, heads: Heads) -> None:
        self.written: list[Written] = []
        self.tables: list[VersionTable] = []
        self.revisions: list[str] = []
        self._heads = heads
        self._revision: str | None = None

    def configured(self, context: MigrationContext) -> None:
        self.tables.append(VersionTable(context.version_table, context.version_table_schema))
        alembic_private.written_by(context, self._statement)
        impl: Any = context.impl
        impl.static_output = self._text
        impl.emit_begin = self._boundary("begin")
        impl.emit_commit = self._boundary("commit")
        context.on_version_apply_callbacks += (self._applied,)

    def observed(self, steps: list[Any]) -> Iterator[Any]:
        for step in steps:
            # with the statement that makes the version table, and the version's own
            self._revision = revision_id(step)
            self.revisions.append(self._revision)
            yield step

    def _applied(self, *, heads: set[str], **_: Any) -> None:
        self._heads = tuple(sorted(heads))

    def _boundary(self, kind: Literal["begin", "commit"]) -> Callable[[], None]:
        return lambda: self.written.append(Written(kind, self._revision, self._heads))

    def _text(self, text: str) -> None:
        if not text.startswith("-- Running "):  # a comment of Alembic's own
            self._statement(text)

    def _statement(self, sql: str) -> None:
        if sql.strip():
            self.written.append(Written("statement", self._revision, self._heads, sql))
