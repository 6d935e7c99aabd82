"""What PostgreSQL does not do inside a transaction fails, and the failure names the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.alembic_projects import heads, linear, revision, tables

from automigrator import MigrationError, Migrator, Target

pytestmark = pytest.mark.long("-async]", "a setting", "a database")

Make = Callable[..., Target]

BLOCK = "with op.get_context().autocommit_block():\n    "

STATEMENTS = {
    "an index": "op.execute('CREATE INDEX CONCURRENTLY i ON users (name)')",
    "an index by op": "op.create_index('i', 'users', ['name'], postgresql_concurrently=True)",
    "a vacuum": "op.execute('VACUUM users')",
    "a setting of the server": "op.execute('ALTER SYSTEM RESET work_mem')",
    "a database": "op.execute('CREATE DATABASE automigrator_never_made')",
    "a value of a type": "op.execute(\"ALTER TYPE mood ADD VALUE 'calm'\")\n"
    "op.execute(\"ALTER TABLE users ADD m mood DEFAULT 'calm'\")",
}


def third(body: str) -> Callable[[Path], None]:
    def revisions(folder: Path) -> None:
        linear(folder, 2)
        revision(folder, "r3", "r2", upgrade="op.execute(\"CREATE TYPE mood AS ENUM ('glad')\")")
        revision(folder, "r4", "r3", upgrade=body)

    return revisions


@pytest.mark.long("index by op", "vacuum", "value of a type")
@pytest.mark.parametrize("kind", ["generic", "async"])
@pytest.mark.parametrize("body", STATEMENTS.values(), ids=STATEMENTS)
async def test_it_fails_and_names_the_remedy(
    body: str, kind: str, make_target: Make, postgres_url: str
) -> None:
    target = make_target(third("pass"), kind=kind, database=postgres_url, revision="r3")
    await Migrator(target, mode="migrate").run()
    target = make_target(third(body), kind=kind, database=postgres_url, folder="next")

    with pytest.raises(MigrationError) as caught:
        await Migrator(target, mode="migrate").run()

    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.state, failure.revision) == ("revision", "clean", "r4")
    assert "op.get_context().autocommit_block()" in failure.advice
    assert heads(postgres_url) == {"r3"}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["generic", "async"])
async def test_the_remedy_helps(kind: str, make_target: Make, postgres_url: str) -> None:
    names = ("an index", "an index by op", "a vacuum")
    bodies = [STATEMENTS[name].replace("'i'", "'j'") for name in names]
    value, use = STATEMENTS["a value of a type"].split("\n")
    body = "\n".join([*(BLOCK + each for each in bodies), BLOCK + value, use])

    target = make_target(third(body), kind=kind, database=postgres_url)
    await Migrator(target, mode="migrate").run()

    assert heads(postgres_url) == {"r4"}
    assert "users" in tables(postgres_url)
