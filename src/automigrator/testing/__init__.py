"""Conformance suites: a strategy, a backend or an executor inherits the cases that ours pass.

Needs pytest (`pip install automigrator[testing]`) and no plugin of it: every case is a plain method
that runs an event loop of its own. Nothing in automigrator imports this package.
"""

try:
    import pytest  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "automigrator.testing needs pytest: pip install automigrator[testing]", name="pytest"
    ) from error

from automigrator.testing.backends import BackendConformance
from automigrator.testing.conformance import POSTGRES_VARIABLE
from automigrator.testing.databases import Databases, PostgreSQLServer, SQLiteFiles
from automigrator.testing.executors import ExecutorConformance
from automigrator.testing.strategies import StrategyConformance

__all__ = [
    "POSTGRES_VARIABLE",
    "BackendConformance",
    "Databases",
    "ExecutorConformance",
    "PostgreSQLServer",
    "SQLiteFiles",
    "StrategyConformance",
]
