"""Ready-made tests with faults: import those that you want into a test module of yours.

    from pytest_automigrator.faults.tests import *  # noqa: F403

They take the revisions that `automigrator_faults` names, the heads unless it is set. Each fault is
made on a copy of a database at the revision's parent, with rows. The start after it, without a
fault, has to end as if there had been none.
"""

from __future__ import annotations

import pytest

from pytest_automigrator.faults.fixture import Faults

__all__ = [
    "test_disk_full_at_every_statement",
    "test_failing_at_every_statement",
    "test_killed_at_every_statement",
    "test_lock_in_the_way",
    "test_lost_connection_at_every_statement",
]


def test_failing_at_every_statement(migration_faults: Faults) -> None:
    """A statement fails, as the database fails it."""
    _check(migration_faults, "fail")


def test_killed_at_every_statement(migration_faults: Faults) -> None:
    """The process is killed at a statement, or at the commit."""
    _check(migration_faults, "kill")


def test_disk_full_at_every_statement(migration_faults: Faults) -> None:
    """A SQLite file cannot grow any more."""
    _check(migration_faults, "full")


def test_lost_connection_at_every_statement(migration_faults: Faults) -> None:
    """A PostgreSQL server ends the connection."""
    _check(migration_faults, "disconnect")


def test_lock_in_the_way(migration_faults: Faults) -> None:
    """Another connection holds locks for a while."""
    _check(migration_faults, "lock")


def _check(faults: Faults, kind: str) -> None:
    if kind not in faults.kinds:
        pytest.skip(f"no such fault on {faults.database}")
    wrong = [line for revision in faults.chosen() for line in faults(revision, kind).wrong]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)
