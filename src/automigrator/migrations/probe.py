"""Finds a way that leads an env.py to the target's database."""

from __future__ import annotations

import traceback

from automigrator.errors import (
    EnvError,
    HistoryError,
    JudgedError,
    NoAnswerError,
    RevisionImportError,
    UnknownRevisionError,
)
from automigrator.migrations.causes import outside_context
from automigrator.migrations.config import url_named
from automigrator.migrations.drive import drive
from automigrator.migrations.execution import Command, Execution, Migration
from automigrator.migrations.ways import Way, missing, ways
from automigrator.support.redaction import first_line

_WHATEVER_ENV_DOES = {"lock-timeout", "timeout", "disk-full", "read-only", "corrupt"}


async def probe(migration: Migration) -> tuple[Way, Execution]:
    """Find the first way that leads env.py to the database, under the lock; changes nothing.

    Raises EnvError with the error of each way, chained to the most telling one; errors of the
    history, and of the database once it was reached, are raised as they are.
    """
    target, backend, history, _, _ = migration
    tried: list[tuple[Way, BaseException]] = []

    for way in _open_to(migration):
        try:
            if way.refusal is not None:
                raise way.refusal
            execution = await drive(migration, way, Command(target.revision))
            if any(context.ran for context in execution.contexts):
                return way, execution
            raise EnvError("env.py returned without running migrations")
        except (HistoryError, RevisionImportError, UnknownRevisionError):
            raise  # env.py reached the database, and no other way reads other revisions
        except (JudgedError, NoAnswerError):
            raise  # no other way would get further
        except Exception as error:  # noqa: BLE001 - any error only rules out this way
            tried.append((way, error))
    if backend.classify(tried[0][1]).kind in _WHATEVER_ENV_DOES:
        raise tried[0][1]
    # the error of a way that got to a database says more than that of one that could not start
    first = next((e for _, e in tried if type(e) is EnvError), tried[0][1])
    errors: dict[str, list[str]] = {}
    for way, met in tried:
        errors.setdefault(first_line(met), []).append(str(way))
    if len(errors) == 1:
        detail = ", ".join(str(way) for way, _ in tried)
    else:
        detail = "; ".join(f"{', '.join(ways)}: {what}" for what, ways in errors.items())
    what = str(first)
    if not isinstance(first, EnvError):
        what = first_line(first) + _line_in(first, history.script.env_py_location)
    if packages := sorted({each for _, error in tried for each in missing(error)}):
        what += f"; to install what is missing: pip install {' '.join(packages)}"
    raise EnvError(
        f"env.py cannot be driven to the target's database: {what} (tried {detail})",
        outside_context(first),
    ) from first


def usual(migration: Migration) -> Way | None:
    """The way that is tried first, where that is env.py's own connection; it is not tried here."""
    first = next(iter(_open_to(migration)), None)
    return None if first is None or first.ours or first.refusal is not None else first


def _open_to(migration: Migration) -> list[Way]:
    target, backend, history, place, _ = migration
    named = url_named(target, backend.name)
    return ways(target, backend, place, history.environment, named)


def _line_in(error: BaseException, env: str) -> str:
    """The line of env.py that raised the error."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == env]
    return f", in line {lines[-1]} of {env}" if lines else ""
