"""A trial, once in a process: whether the installed Alembic can serve several runs at once."""

from __future__ import annotations

import threading

import alembic.context
import alembic.op
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from sqlalchemy import create_engine, inspect

from automigrator.migrations import alembic_private
from automigrator.migrations.runs.inside import Inside, entered
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

logger = logger_of(__name__)

WAIT_S = 30.0
"""Seconds that one of the two waits for the other at most."""

_lock = threading.Lock()


def proxies_are_apart() -> bool:
    """Whether two runs, which call Alembic in turn, reach a database of their own each.

    Tried on databases in memory, when first asked.
    """
    global _apart
    with _lock:
        if _apart is None:
            _apart = _tried()
        return _apart


def proxies_known_apart() -> bool | None:
    """What the trial has shown; None before it."""
    return _apart


_apart: bool | None = None


def _tried() -> bool:
    try:
        failed = _errors()
    except Exception as error:  # noqa: BLE001 - whatever it is, this Alembic is another one
        failed = [error]
    for each in failed[:1]:
        alembic_private.remove_operations_proxy()
        logger.warning(
            "this release of Alembic cannot serve several migrations of a process at once: %s: %s; "
            "they are run one after another",
            type(each).__name__,
            first_line(each),
        )
    return not failed


def _errors() -> list[BaseException]:
    """What was wrong in the two runs."""
    met: list[BaseException] = []
    turn = threading.Barrier(2, timeout=WAIT_S)

    def tried(name: str) -> None:
        try:
            _run(name, turn)
        except BaseException as error:  # noqa: BLE001 - told by the caller
            met.append(error)
            turn.abort()

    with alembic_private.dispatched():
        threads = [threading.Thread(target=tried, args=(each,), daemon=True) for each in "ab"]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    return sorted(met, key=lambda error: isinstance(error, threading.BrokenBarrierError))


def _run(name: str, turn: threading.Barrier) -> None:
    config = Config()
    engine = create_engine("sqlite://")
    with (
        engine.connect() as connection,
        entered(Inside(known={})),
        EnvironmentContext(config, None),  # type: ignore[arg-type]  # no script is run
        Operations.context(MigrationContext.configure(connection)),
    ):
        turn.wait()
        alembic.op.execute(f"CREATE TABLE {name} (id INTEGER)")
        turn.wait()
        reached = (alembic.op.get_bind(), alembic.context.config, inspect(connection))
        turn.wait()
        if reached[0] is not connection or reached[1] is not config:
            raise RuntimeError("a call reached the connection of another migration")
        if reached[2].get_table_names() != [name]:
            raise RuntimeError("a statement reached the database of another migration")
    engine.dispose()
