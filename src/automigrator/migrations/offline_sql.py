"""The SQL that an upgrade would run, rendered by env.py's offline mode; nothing is connected."""

from __future__ import annotations

import builtins
import io
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from automigrator.errors import EnvError, HistoryError, JudgedError, RevisionImportError
from automigrator.migrations.config import alembic_config
from automigrator.migrations.environment import Migration
from automigrator.migrations.history import directory
from automigrator.migrations.isolation import alone_in_thread, running_env
from automigrator.migrations.process import replaced
from automigrator.support.redaction import first_line


async def rendered(migration: Migration, heads: tuple[str, ...]) -> str:
    """The SQL from `heads` to the target's revision. Raises EnvError where env.py cannot say."""
    target, _, history, *_ = migration
    buffer = io.StringIO()

    def steps(script: ScriptDirectory) -> list[Any]:
        history.adopt(script)
        return history.steps(target.revision, heads)

    start = heads[0] if len(heads) == 1 else None
    render = partial(run_offline, migration, steps, buffer, start)
    try:
        await alone_in_thread(target, render)
    except (JudgedError, HistoryError, RevisionImportError):
        raise
    except Exception as error:
        raise EnvError(
            f"env.py's offline mode cannot render the SQL: {first_line(error)}"
        ) from error
    return buffer.getvalue()


def run_offline(
    migration: Migration,
    steps: Callable[[ScriptDirectory], Iterable[Any]],
    buffer: io.StringIO,
    start: str | None = None,
) -> None:
    """Run env.py in offline mode, which writes to `buffer`; `steps` is asked for what to render."""
    target = migration.target
    config = alembic_config(target, migration.backend.access.url)
    with running_env():
        script = directory(config)
        environment = EnvironmentContext(
            config,
            script,
            fn=lambda rev, context: steps(script),
            as_sql=True,
            starting_rev=start,
            destination_rev=target.revision,
            output_buffer=buffer,
        )
        original = environment.configure

        def configure(*args: Any, **options: Any) -> None:
            ours = {**migration.backend.sessions.configure_options(), "output_buffer": buffer}
            original(*args, **{**options, **ours})

        environment.configure = configure  # type: ignore[method-assign]  # as in environment.py
        with _writing_nothing(script), environment:
            script.run_env()


def _writing_nothing(script: ScriptDirectory) -> AbstractContextManager[None]:
    """Context manager: env.py writes no file; the multidb template's would be in the cwd."""
    real, location = builtins.open, script.env_py_location

    def pretended(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set("wax+") & set(mode) and sys._getframe(1).f_code.co_filename == location:
            return io.BytesIO() if "b" in mode else io.StringIO()
        return real(file, mode, *args, **options)

    return replaced(builtins, "open", pretended)
