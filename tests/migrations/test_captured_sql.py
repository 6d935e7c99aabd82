"""An upgrade as statements: what each is of, and where transactions begin and end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import alembic_projects

from automigrator import Target
from automigrator.backends.contract.values import VersionTable
from automigrator.errors import EnvError
from automigrator.migrations.captured_sql import Captured, captured
from automigrator.runner.session import opened

MakeTarget = Callable[..., Target]


def revisions(folder: Path) -> None:
    alembic_projects.revision(folder, "r1", None, upgrade="op.execute(\"select '50%', '\\t'\")")
    apart = 'with op.get_context().autocommit_block():\n    op.execute("vacuum")'
    alembic_projects.revision(folder, "r2", "r1", upgrade=apart)


async def rendered(target: Target, heads: tuple[str, ...] | None, *, one: bool) -> Captured:
    async with opened(target) as session:
        migration = await session.migration()
        return await captured(migration, VersionTable(), heads, one_transaction=one)


RETURNING = "RETURNING alembic_version.version_num"


def shown(found: Captured) -> list[tuple[str, str | None, tuple[str, ...]]]:
    return [(each.sql or each.kind, each.revision, each.heads) for each in found.written]


@pytest.fixture
def target(make_target: MakeTarget) -> Target:
    return make_target(revisions, database="postgresql+asyncpg://nobody@127.0.0.1:1/none")


async def test_one_transaction_is_parted_by_what_is_outside_of_it(target: Target) -> None:
    found = await rendered(target, (), one=True)

    assert (found.table, found.revisions) == (VersionTable(), ("r1", "r2"))
    assert shown(found) == [
        ("begin", None, ()),
        ("select '50%', '\t'", "r1", ()),
        (f"INSERT INTO alembic_version (version_num) VALUES ('r1') {RETURNING}", "r1", ()),
        ("commit", "r2", ("r1",)),
        ("vacuum", "r2", ("r1",)),
        ("begin", "r2", ("r1",)),
        (
            "UPDATE alembic_version SET version_num='r2' WHERE alembic_version.version_num = 'r1'",
            "r2",
            ("r1",),
        ),
        ("commit", "r2", ("r2",)),
    ]


async def test_each_revision_may_have_its_own(target: Target) -> None:
    found = await rendered(target, None, one=False)

    kinds = [(each.kind, each.revision) for each in found.written if each.kind != "statement"]
    assert kinds[:4] == [("begin", "r1"), ("commit", "r1"), ("begin", "r2"), ("commit", "r2")]
    assert "CREATE TABLE alembic_version" in found.written[1].sql


TWICE = """
from alembic import context

for name in ("one", "two"):
    context.configure(url="postgresql://", version_table=name)
    with context.begin_transaction():
        context.run_migrations()
"""


async def test_two_version_tables_are_refused(target: Target, versions: Path) -> None:
    (versions.parent / "env.py").write_text(TWICE, "utf-8")
    with pytest.raises(EnvError, match="version_table"):
        await rendered(target, (), one=True)
    (versions.parent / "env.py").write_text(TWICE.replace(", version_table=name", ""), "utf-8")
    with pytest.raises(EnvError, match="configures 2 version tables"):
        await rendered(target, (), one=True)
