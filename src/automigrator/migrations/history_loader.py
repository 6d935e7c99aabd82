"""The loader of a target's history: it reads the revisions by themselves, or within env.py.

The latter where they need what env.py sets up.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

from alembic.script import ScriptDirectory

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.errors import HistoryError, RevisionImportError, UnknownRevisionError
from automigrator.migrations.config import alembic_config
from automigrator.migrations.execution import Migration
from automigrator.migrations.history import History
from automigrator.migrations.isolation import alone_in_thread
from automigrator.migrations.offline_sql import run_offline
from automigrator.migrations.probe import probe
from automigrator.migrations.runs.process import guarded_path
from automigrator.target import Target


async def load_history(
    target: Target, backend: Backend, place: Callable[[], Place], table: VersionTable
) -> History:
    """Read the history; env.py is run, changing nothing, where revisions cannot be read without.

    Raises HistoryError, RevisionImportError, ConfigurationError, and JudgedError when another
    migration of this process lasts too long.
    """

    def read(now: bool) -> History:
        config = alembic_config(target, backend.access.url)
        with guarded_path():
            return History(config, read=now)

    try:
        return await alone_in_thread(target, partial(read, True), beside=True)
    except RevisionImportError as error:
        history = await alone_in_thread(target, partial(read, False), beside=True)
        migration = Migration(target, backend, history, place())
        met = await _offline(migration)
        if met is not None and (await backend.look([table])).exists:
            met = await _online(migration)
        if met is not None:
            raise (met if isinstance(met, RevisionImportError | HistoryError) else error) from met
        return history


async def _offline(migration: Migration) -> BaseException | None:
    """Read the revisions in env.py's offline mode, which needs no database; return the error."""
    read: list[ScriptDirectory] = []

    def steps(script: ScriptDirectory, heads: tuple[str, ...]) -> list[Any]:
        migration.history.adopt(script)
        read.append(script)
        return []

    work = partial(run_offline, migration, steps, io.StringIO(), {})
    try:
        await alone_in_thread(migration.target, work)
    except Exception as error:  # noqa: BLE001 - any error only rules out this mode
        return None if read else error
    return None if read else RuntimeError("env.py's offline mode ran no migrations")


async def _online(migration: Migration) -> BaseException | None:
    try:
        await probe(migration)
    except UnknownRevisionError:
        return None  # the revisions were read, and this is told where heads are compared
    except Exception as error:  # noqa: BLE001 - the caller says which error tells more
        return error
    return None
