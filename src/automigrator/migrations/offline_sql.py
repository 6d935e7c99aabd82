"""The SQL that an upgrade would run, rendered by env.py's offline mode; nothing is connected."""

from __future__ import annotations

import builtins
import io
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from automigrator.backends.contract.values import VersionTable
from automigrator.errors import EnvError, JudgedError
from automigrator.migrations import alembic_private
from automigrator.migrations.config import alembic_config
from automigrator.migrations.environment import Migration
from automigrator.migrations.isolation import alone_in_thread, replaced, running_env
from automigrator.support.redaction import first_line

Rows = Mapping[VersionTable, tuple[str, ...] | None]

"""The heads in each version table, in the order in which env.py configures them; None: absent."""


async def rendered(migration: Migration, rows: Rows) -> str:
    """The SQL from `rows` to the target's revision. Raises EnvError where env.py cannot say."""
    target, backend, history, *_ = migration
    for heads in rows.values():
        history.check_known(heads or ())
    buffer = io.StringIO()

    def render() -> None:
        config = alembic_config(target, backend.access.url)
        environment = EnvironmentContext(
            config,
            history.script,
            fn=lambda heads, context: history.steps(target.revision, tuple(heads)),
            as_sql=True,
            starting_rev=_starting_at(next(iter(rows.values()), None)),
            destination_rev=target.revision,
            output_buffer=buffer,
        )
        original, places = environment.configure, iter(rows.values())

        def configure(*args: Any, **options: Any) -> None:
            ours = {**backend.sessions.configure_options(), "output_buffer": buffer}
            name = options.get("version_table") or "alembic_version"
            table = VersionTable(name, options.get("version_table_schema"))
            if name not in {each.name for each in rows}:
                raise EnvError(
                    f"env.py's offline mode keeps the heads in {table}, and the database's are in "
                    f"{', '.join(map(str, rows))}; let both modes name the same version_table"
                )
            in_order = next(places, None)
            heads = rows.get(table, in_order)
            environment.context_opts["starting_rev"] = _starting_at(heads)
            original(*args, **{**options, **ours})
            if heads is not None:
                alembic_private.keep_version_table(environment.get_context())

        environment.configure = configure  # type: ignore[method-assign]  # as in environment.py
        with running_env(config), _writing_nothing(history.script), environment:
            history.script.run_env()

    try:
        await alone_in_thread(target, render)
    except (JudgedError, EnvError):
        raise
    except Exception as error:
        raise EnvError(
            f"env.py's offline mode cannot render the SQL: {first_line(error)}"
        ) from error
    return buffer.getvalue()


def _starting_at(heads: tuple[str, ...] | None) -> Any:
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
