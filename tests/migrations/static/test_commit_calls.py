"""Which revisions may commit in their middle; a copy is taken before these run."""

from __future__ import annotations

import pytest

from automigrator.migrations.static.commit_calls import may_commit


@pytest.mark.parametrize(
    "body",
    [
        "with op.get_context().autocommit_block(): pass",
        "op.get_bind().commit()",
        "session.commit()",
        "op.get_bind().connection.driver_connection.cursor()",
        "driver.executescript(sql)",
        "op.get_bind().execution_options(isolation_level='AUTOCOMMIT')",
        "op.execute('COMMIT')",
        "op.execute(f'select {1}; commit')",
        "sa.create_engine(url)",
        "commit = op.get_bind().commit",
        "session.commit() is no Python",
    ],
)
def test_code_that_may_commit(body: str) -> None:
    assert may_commit(f"def upgrade():\n    {body}\n".encode())
    assert may_commit(f"def helper():\n    {body}\ndef upgrade():\n    helper()\n".encode())


@pytest.mark.parametrize(
    "body",
    [
        "pass  # COMMIT, session.commit(), autocommit_block()",
        "'''commit; executescript'''",
        "op.create_table('log', sa.Column('autocommit'))",
        "op.execute('UPDATE log SET text = \\'we commit to this\\'')",
        "pass  # ### end Alembic commands ###",
        "op.execute('CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; END;')",
    ],
)
def test_code_that_commits_nothing(body: str) -> None:
    assert not may_commit(f"def upgrade():\n    {body}\n".encode())


def test_what_only_a_downgrade_does_is_not_counted() -> None:
    assert not may_commit(b"def upgrade(): pass\ndef downgrade():\n    op.get_bind().commit()\n")
