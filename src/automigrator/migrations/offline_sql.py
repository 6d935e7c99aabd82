"""The SQL that an upgrade would run, rendered by env.py's offline mode; nothing is connected."""

from __future__ import annotations

import builtins
import io
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL

from automigrator.backends.contract.values import VersionTable
from automigrator.errors import (
    EnvError,
    HistoryError,
    JudgedError,
    RevisionImportError,
    UnknownRevisionError,
)
from automigrator.migrations import alembic_private
from automigrator.migrations.config import alembic_config
from automigrator.migrations.execution import Migration
from automigrator.migrations.isolation import alone_in_thread, running_env
from automigrator.migrations.revision_graph import directory
from automigrator.migrations.runs.inside import replaced
from automigrator.support.redaction import first_line

Heads = tuple[str, ...]

Rows = Mapping[VersionTable, Heads | None]

"""The heads in each version table, in the order in which env.py configures them; None: absent."""


async def rendered(migration: Migration, rows: Rows) -> str:
    """The SQL from `rows` to the target's revision. Raises EnvError where env.py cannot say."""
    target, _, history, *_ = migration
    buffer = io.StringIO()

    def steps(script: ScriptDirectory, heads: Heads) -> list[Any]:
        history.adopt(script)
        for each in rows.values():
            history.check_known(each or ())
        return history.steps(target.revision, heads)

    render = partial(run_offline, migration, steps, buffer, rows)
    try:
        await alone_in_thread(target, render)
    except (JudgedError, EnvError, HistoryError, RevisionImportError, UnknownRevisionError):
        raise
    except Exception as error:
        raise EnvError(
            f"env.py's offline mode cannot render the SQL: {first_line(error)}"
        ) from error
    return buffer.getvalue()


def run_offline(
    migration: Migration,
    steps: Callable[[ScriptDirectory, Heads], Iterable[Any]],
    buffer: io.StringIO,
    rows: Rows,
    *,
    url: URL | None = None,
    options: Mapping[str, Any] | None = None,
    configured: Callable[[MigrationContext], None] = lambda _: None,
) -> None:
    """Run env.py in offline mode, which writes to `buffer`; `steps` is asked for what to render.

    Each version table starts at its own heads in `rows`; where that is empty, at base. `url`: what
    env.py finds as `sqlalchemy.url`; default: the target's. `options`
    go before those of env.py. `configured` is called with each context that env.py configures.
    """
    target = migration.target
    config = alembic_config(target, url or migration.backend.access.url)
    with running_env():
        script = directory(config)
        environment = EnvironmentContext(
            config,
            script,
            fn=lambda heads, context: steps(script, tuple(heads)),
            as_sql=True,
            starting_rev=_starting_at(next(iter(rows.values()), None)),
            destination_rev=target.revision,
            output_buffer=buffer,
        )
        original, places = environment.configure, iter(rows.values())

        def configure(*args: Any, **theirs: Any) -> None:
            ours = {**migration.backend.sessions.configure_options(), "output_buffer": buffer}
            name = theirs.get("version_table") or "alembic_version"
            table = VersionTable(name, theirs.get("version_table_schema"))
            if rows and name not in {each.name for each in rows}:
                raise EnvError(
                    f"env.py's offline mode keeps the heads in {table}, and the database's are in "
                    f"{', '.join(map(str, rows))}; let both modes name the same version_table"
                )
            heads = rows.get(table, next(places, None))
            environment.context_opts["starting_rev"] = _starting_at(heads)
            original(*args, **{**theirs, **ours, **(options or {})})
            if heads is not None:
                alembic_private.keep_version_table(environment.get_context())
            configured(environment.get_context())

        environment.configure = configure  # type: ignore[method-assign]  # as in environment.py
        with _writing_nothing(script), environment:
            script.run_env()


def _starting_at(heads: Heads | None) -> Any:
    """The heads as Alembic takes them: its own command line knows one head at most."""
    return heads[0] if heads and len(heads) == 1 else heads or None


def _writing_nothing(script: ScriptDirectory) -> AbstractContextManager[None]:
    """Context manager: env.py writes no file; the multidb template's would be in the cwd."""
    real, location = builtins.open, script.env_py_location

    def pretended(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set("wax+") & set(mode) and sys._getframe(1).f_code.co_filename == location:
            return io.BytesIO() if "b" in mode else io.StringIO()
        return real(file, mode, *args, **options)

    return replaced(builtins, "open", pretended)
