"""The SQL of a plan does to a database what the upgrade itself does, whatever its heads are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from support.alembic_projects import contents, heads, linear, revision, with_sync_driver

from automigrator import Migrator, Target
from automigrator.errors import EnvError

pytestmark = pytest.mark.long(
    "[postgresql-before1",
    "[postgresql-before2",
    "per_migration]",
    "before3",
    "[postgresql-before0-pending0-async",
    "pending1-async",
    "pending2-async",
    "updated[postgresql",
    "refused[postgresql",
    "at_its_own_heads",
    "pending0-async",
    "before1-",
    "before2-",
)

Make = Callable[..., Target]


def branches(*names: str) -> Callable[[Path], None]:
    def revisions(folder: Path) -> None:
        for name in names:
            down = f"{name[0]}{int(name[1]) - 1}" if name[1] != "1" else None
            body = f'op.create_table("{name}", sa.Column("id", sa.Integer))'
            revision(folder, name, down, upgrade=body)

    return revisions


def execute(url: str, sql: str) -> None:
    lines = [line for line in sql.splitlines() if not line.startswith("--")]
    engine = create_engine(with_sync_driver(url))
    with engine.begin() as connection:
        for statement in "\n".join(lines).split(";"):
            if statement.strip() and statement.strip() not in ("BEGIN", "COMMIT"):
                connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.mark.long("[postgresql")
@pytest.mark.parametrize("kind", ["generic", "async", "per_migration"])
@pytest.mark.parametrize(
    ("before", "pending"),
    [
        (("a1", "b1"), ("a2", "b2")),
        (("a1", "b1"), ("b2",)),
        (("a1",), ("b1", "b2")),
        (("a1", "b1", "c1"), ("a2", "c2", "c3")),
    ],
)
async def test_the_sql_from_several_heads_makes_what_the_upgrade_makes(
    before: tuple[str, ...],
    pending: tuple[str, ...],
    kind: str,
    make_target: Make,
    database_url: str,
    other_url: str,
    versions: Path,
) -> None:
    target = make_target(branches(*before), kind=kind)
    twin = make_target(branches(*before), kind=kind, database=other_url, folder="twin")
    for each in (target, twin):
        await Migrator(each, mode="migrate").run()
    branches(*before, *pending)(versions)

    (plan,) = await Migrator(target).plan(sql=True)
    await Migrator(target, mode="migrate").run()

    assert plan.sql is not None
    execute(other_url, plan.sql)
    assert contents(other_url) == contents(database_url)


async def test_two_heads_are_updated(make_target: Make, database_url: str, versions: Path) -> None:
    target = make_target(branches("a1", "b1"))
    await Migrator(target, mode="migrate").run()
    branches("a2", "b2")(versions)

    (plan,) = await Migrator(target).plan(sql=True)

    assert plan.sql is not None
    assert plan.sql.count("UPDATE alembic_version") == 2
    assert "CREATE TABLE alembic_version" not in plan.sql
    assert "INSERT INTO" not in plan.sql


@pytest.mark.long("[postgresql")
async def test_a_version_table_without_a_row_is_not_made_again(
    make_target: Make, database_url: str, other_url: str
) -> None:
    target = make_target(linear, baseline="base")
    for url in (database_url, other_url):
        execute(url, "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")

    (plan,) = await Migrator(target).plan(sql=True)

    assert plan.sql is not None
    execute(other_url, plan.sql)
    assert heads(other_url) == {"r3"}


async def test_each_version_table_starts_at_its_own_heads(
    make_target: Make, postgres_url: str, versions: Path
) -> None:
    target = make_target(lambda f: linear(f, 1), kind="schemas", database=postgres_url)
    await Migrator(target, mode="migrate").run()
    linear(versions, 2)

    (plan,) = await Migrator(target).plan(sql=True)

    assert plan.sql is not None
    assert "CREATE TABLE alembic_version" not in plan.sql
    assert plan.sql.count("-- Running upgrade r1 -> r2") >= 1


async def test_an_offline_mode_that_names_another_version_table_is_refused(
    make_target: Make, database_url: str
) -> None:
    target = make_target(kind="version_table")
    await Migrator(target, mode="migrate").run()

    with pytest.raises(EnvError, match="alembic_version.*my_versions"):
        await Migrator(make_target(kind="version_table", folder="next")).plan(sql=True)
