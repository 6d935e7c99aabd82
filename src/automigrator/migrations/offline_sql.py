"""The SQL that an upgrade would run, rendered by env.py's offline mode; nothing is connected."""

from __future__ import annotations

import builtins
import io
import sys
from contextlib import AbstractContextManager
from typing import Any

from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from automigrator.errors import EnvError, JudgedError
from automigrator.migrations.config import alembic_config
from automigrator.migrations.environment import Migration
from automigrator.migrations.isolation import alone_in_thread, replaced, running_env
from automigrator.support.redaction import first_line


async def rendered(migration: Migration, heads: tuple[str, ...]) -> str:
    """The SQL from `heads` to the target's revision. Raises EnvError where env.py cannot say."""
    target, backend, history, *_ = migration
    steps = history.steps(target.revision, heads)
    buffer = io.StringIO()

    def render() -> None:
        config = alembic_config(target, backend.access.url)
        environment = EnvironmentContext(
            config,
            history.script,
            fn=lambda rev, context: iter(steps),
            as_sql=True,
            starting_rev=heads[0] if len(heads) == 1 else None,
            destination_rev=target.revision,
            output_buffer=buffer,
        )
        original = environment.configure

        def configure(*args: Any, **options: Any) -> None:
            ours = {**backend.sessions.configure_options(), "output_buffer": buffer}
            original(*args, **{**options, **ours})

        environment.configure = configure  # type: ignore[method-assign]  # as in environment.py
        with running_env(config), _writing_nothing(history.script), environment:
            history.script.run_env()

    try:
        await alone_in_thread(target, render)
    except JudgedError:
        raise
    except Exception as error:
        raise EnvError(
            f"env.py's offline mode cannot render the SQL: {first_line(error)}"
        ) from error
    return buffer.getvalue()


def _writing_nothing(script: ScriptDirectory) -> AbstractContextManager[None]:
    """Context manager: env.py writes no file; the multidb template's would be in the cwd."""
    real, location = builtins.open, script.env_py_location

    def pretended(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set("wax+") & set(mode) and sys._getframe(1).f_code.co_filename == location:
            return io.BytesIO() if "b" in mode else io.StringIO()
        return real(file, mode, *args, **options)

    return replaced(builtins, "open", pretended)
