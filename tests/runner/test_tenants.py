"""An env.py that migrates tenants is asked at each start, however its loop is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.alembic_projects import project, query, revision

from automigrator import Migrator, Target

pytestmark = pytest.mark.long("[comprehension", "[recursion", "[map", "[while")

ENV = """
from pathlib import Path

from alembic import context
from sqlalchemy import engine_from_config, pool, text

HERE = Path(__file__).parent
names = (HERE / "names").read_text().split()
engine = engine_from_config(
    context.config.get_section("alembic"), prefix="sqlalchemy.", poolclass=pool.NullPool
)


def migrate(name):
    with engine.connect() as connection:
        connection.execute(text((HERE / "enter.sql").read_text().format(name)))
        connection.commit()
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()


{loop}
"""

ENTER = "create schema if not exists {0}; set search_path to {0}"

LOOPS = {
    "enumerate": "for n, name in enumerate(names, 1):\n    migrate(name)",
    "map": "list(map(migrate, names))",
    "while": "while names:\n    migrate(names.pop())",
    "comprehension": "[migrate(name) for (name) in names]",
    "recursion": (
        "def each(names):\n    if names:\n        migrate(names[0])\n        each(names[1:])\n\n\n"
        "each(names)"
    ),
}


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_new_one_is_migrated(loop: str, postgres_url: str, tmp_path: Path) -> None:
    made = project(
        tmp_path,
        "generic",
        postgres_url,
        revisions=lambda folder: revision(
            folder, "r1", None, upgrade='op.execute("create table t (id int)")'
        ),
    )
    scripts = made.versions.parent
    (scripts / "env.py").write_text(ENV.format(loop=LOOPS[loop]))
    (scripts / "enter.sql").write_text(ENTER)
    (scripts / "names").write_text("public")
    migrator = Migrator(Target(postgres_url, made.config), mode="migrate")
    assert (await migrator.run()).outcome == "migrated"
    assert (await migrator.run()).outcome == "current"
    (scripts / "names").write_text("public acme")
    await migrator.run()
    found = query(postgres_url, "select schemaname from pg_tables where tablename = 't' order by 1")
    assert [row[0] for row in found] == ["acme", "public"]
