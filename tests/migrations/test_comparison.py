"""check(models=…) says how models and migrated schema differ, by Alembic's own comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url
from support.alembic_projects import contents, revision

from automigrator import ConfigurationError, Migrator, Target
from automigrator.status import TargetStatus

pytestmark = pytest.mark.long("postgresql")

Make = Callable[..., Target]


def schema(folder: Path) -> None:
    """What `models` says, as migrations."""
    revision(
        folder,
        "r1",
        None,
        upgrade="""
        op.create_table(
            "users",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("name", sa.String(50), nullable=False),
            sa.Column("age", sa.Integer),
            sa.UniqueConstraint("name", name="uq_users_name"),
        )
        op.create_index("ix_users_age", "users", ["age"])
        """,
    )


def models(*without: str, **instead: sa.Column[Any]) -> sa.MetaData:
    """Models that agree, but for the parts left out and the columns given."""
    metadata = sa.MetaData()
    columns: dict[str, sa.Column[Any]] = {
        "id": sa.Column("id", sa.Integer, primary_key=True),
        "name": sa.Column("name", sa.String(50), nullable=False),
        "age": sa.Column("age", sa.Integer),
        **instead,
    }
    parts: list[Any] = [each for name, each in columns.items() if name not in without]
    if "unique" not in without:
        parts.append(sa.UniqueConstraint("name", name="uq_users_name"))
    if "users" not in without:
        table = sa.Table("users", metadata, *parts)
        if "index" not in without:
            sa.Index("ix_users_age", table.c.age)
    return metadata


def with_table() -> sa.MetaData:
    metadata = models()
    sa.Table("tags", metadata, sa.Column("id", sa.Integer, primary_key=True))
    return metadata


def with_index() -> sa.MetaData:
    metadata = models()
    sa.Index("ix_users_both", metadata.tables["users"].c.age, metadata.tables["users"].c.name)
    return metadata


def with_unique() -> sa.MetaData:
    metadata = models()
    metadata.tables["users"].append_constraint(sa.UniqueConstraint("age", name="uq_age"))
    return metadata


DIFFERENT = {
    "a table of the models": (with_table(), ["table tags: only in the models"]),
    "a table of the database": (
        models("users"),
        ["index ix_users_age on users: only in", "table users: only in the database"],
    ),
    "a column of the models": (
        models(email=sa.Column("email", sa.Text)),
        ["column users.email: only in the models"],
    ),
    "a column of the database": (
        models("age", "index"),
        ["column users.age: only in the database", "index ix_users_age on users: only in the"],
    ),
    "a type": (
        models(name=sa.Column("name", sa.String(80), nullable=False)),
        ["column users.name: type VARCHAR(length=50) in the database, String(length=80) in the"],
    ),
    "nullable": (
        models(age=sa.Column("age", sa.Integer, nullable=False)),
        ["column users.age: nullable in the database, not nullable in the models"],
    ),
    "an index of the models": (with_index(), ["index ix_users_both on users: only in the models"]),
    "an index of the database": (
        models("index"),
        ["index ix_users_age on users: only in the database"],
    ),
    "unique in the models": (
        with_unique(),
        ["unique constraint uq_age on users (age): only in the models"],
    ),
    "unique in the database": (
        models("unique"),
        ["unique constraint uq_users_name on users (name): only in the database"],
    ),
}


async def checked(target: Target, metadata: Any) -> TargetStatus:
    (status,) = (await Migrator(target).check(models=metadata)).targets
    return status


@pytest.fixture
async def target(make_target: Make, database_url: str) -> Target:
    """A database at the head of `schema`."""
    made = make_target(schema)
    await Migrator(made, mode="migrate", plugins=[]).run()
    return made


async def test_models_that_agree_have_no_drift(target: Target, database_url: str) -> None:
    status = await checked(target, models())

    assert (status.current, status.drift, status.notes) == (True, (), ())
    assert "models: agree" in str(status)


@pytest.mark.long(
    "column of the models",
    "table of the database",
    "index of the models",
    "index of the database",
    "unique in the database",
    "nullable",
    "unique in the models",
)
@pytest.mark.parametrize("what", DIFFERENT)
async def test_each_difference_is_told_in_a_line(
    what: str, target: Target, database_url: str
) -> None:
    metadata, said = DIFFERENT[what]
    before = contents(database_url)

    status = await checked(target, metadata)

    assert status.drift is not None
    lines = sorted(status.drift)
    assert len(lines) == len(said)
    assert all(line.startswith(words) for line, words in zip(lines, said, strict=True)), lines
    assert status.current  # a run would find nothing to do
    assert status.to_dict()["drift"] == list(status.drift)
    assert all(line in str(status) for line in lines)
    assert contents(database_url) == before


async def test_tables_that_env_py_leaves_out_of_comparisons_are_left_out(
    target: Target, database_url: str, versions: Path
) -> None:
    env = versions.parent / "env.py"
    text = env.read_text("utf-8")
    options = """
        include_object=lambda object, name, type_, *_: name not in ("tags", "users"),
        target_metadata=target_metadata"""
    replaced = text.replace("target_metadata=target_metadata", options.strip())
    assert replaced != text
    env.write_text(replaced, "utf-8")

    assert (await checked(target, with_table())).drift == ()


async def test_types_are_not_compared_where_env_py_says_so(
    target: Target, database_url: str, versions: Path
) -> None:
    env = versions.parent / "env.py"
    text = env.read_text("utf-8")
    env.write_text(
        text.replace(
            "target_metadata=target_metadata", "target_metadata=target_metadata, compare_type=False"
        ),
        "utf-8",
    )

    assert (await checked(target, DIFFERENT["a type"][0])).drift == ()


@pytest.mark.long("cookbook_async", "version_table]", "sqlite-generic")
@pytest.mark.parametrize("kind", ["generic", "multidb", "version_table", "cookbook_async"])
async def test_nothing_of_ours_and_no_version_table_is_drift(
    kind: str, make_target: Make, database_url: str, tmp_path: Path
) -> None:
    def declaring(folder: Path) -> None:
        schema(folder)
        path = folder / "r1_.py"
        text = path.read_text("utf-8")
        path.write_text(text.replace("\ndepends_on", "\ncompatible_with = 'r1'\ndepends_on"))

    target = make_target(declaring, kind=kind)
    await Migrator(target, mode="migrate").run()
    env = tmp_path / "migrations" / "env.py"
    text = env.read_text("utf-8")
    env.write_text(text.replace("connection=", "include_schemas=True, connection="), "utf-8")
    assert make_url(database_url).get_backend_name() == "sqlite" or "include_schemas" in (
        env.read_text("utf-8")
    )

    assert (await checked(target, models())).drift == ()


async def test_a_database_with_something_pending_is_not_compared(
    target: Target, database_url: str, versions: Path
) -> None:
    revision(versions, "r2", "r1")

    status = await checked(target, models())

    assert status.drift is None
    assert "not compared" in status.notes[0]


async def test_an_absent_database_is_not_compared(make_target: Make, tmp_path: Path) -> None:
    target = make_target(database=f"sqlite+aiosqlite:///{tmp_path / 'absent.db'}")

    status = await checked(target, models())

    assert status.drift is None and "not compared" in status.notes[0]
    assert not (tmp_path / "absent.db").exists()


async def test_an_env_py_that_cannot_be_asked_is_the_problem(
    target: Target, database_url: str, versions: Path
) -> None:
    (versions.parent / "env.py").write_text("pass", "utf-8")

    status = await checked(target, models())

    assert status.drift is None
    assert status.problem is not None and status.problem.kind == "env"


@pytest.mark.long
async def test_the_models_of_several_targets_are_told_by_name(
    make_target: Make, sqlite_url: str, tmp_path: Path
) -> None:
    one = make_target(schema, database=sqlite_url, name="one")
    other_url = f"sqlite+aiosqlite:///{tmp_path / 'two.db'}"
    two = make_target(database=other_url, name="two", folder="two")
    migrator = Migrator(one, two, mode="migrate")
    await migrator.run()

    status = await migrator.check(models={"one": with_table()})

    assert status["one"].drift == ("table tags: only in the models",)
    assert status["two"].drift is None and status["two"].notes == ()
    with pytest.raises(ConfigurationError, match="several targets"):
        await migrator.check(models=models())
    with pytest.raises(ConfigurationError, match="three"):
        await migrator.check(models={"three": models()})
