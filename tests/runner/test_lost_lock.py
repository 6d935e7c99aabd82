"""A run whose lock's session is ended by the server while a revision is under way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.alembic_projects import heads, revision

from automigrator import MigrationError, Migrator, Target

ENDED = """
op.execute(
    "select pg_terminate_backend(pid) from pg_locks join pg_database d on d.oid = database"
    " where locktype = 'advisory' and datname = 'postgres'"
)
op.execute("select pg_sleep(60)")
"""


@pytest.mark.long
async def test_the_advice_is_about_the_lock_and_not_about_the_statement_that_was_stopped(
    postgres_url: str, make_target: Callable[..., Target]
) -> None:
    def revisions(folder: Path) -> None:
        revision(folder, "r1", None, upgrade=ENDED)

    target = make_target(revisions, kind="generic", database=postgres_url)
    with pytest.raises(MigrationError) as raised:
        await Migrator(target, mode="migrate").run()
    (failure,) = raised.value.report.targets[0].failures
    assert (failure.kind, failure.state) == ("lock-timeout", "clean")
    assert "the session that held the migration lock is gone" in failure.message
    assert failure.advice == "find out who holds the lock; start again when it is gone"
    assert heads(postgres_url) == set()
