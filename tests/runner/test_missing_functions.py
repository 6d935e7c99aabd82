"""A revision without the function that is wanted of it is told as that, and nothing has run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url
from support.alembic_projects import heads, tables

from automigrator import MigrationError, Migrator, Target

Make = Callable[..., Target]


def without(versions: Path, revision: str, function: str) -> Path:
    """Take a function, which has to be the last one, out of a revision's file."""
    path = versions / f"{revision}_.py"
    kept, line, _ = path.read_text().partition(f"def {function}() -> None:\n")
    assert line
    path.write_text(kept)
    return path


async def test_a_rollback_names_the_revision_that_has_no_way_down(
    make_target: Make, versions: Path, database_url: str
) -> None:
    migrator = Migrator(make_target(), mode="migrate")
    await migrator.run()
    path, before = without(versions, "r2", "downgrade"), tables(database_url)

    with pytest.raises(MigrationError) as raised:
        await migrator.rollback("base")

    (target,) = raised.value.report.targets
    (failure,) = target.failures
    assert (failure.kind, failure.revision, failure.state) == ("revision", "r2", "clean")
    assert failure.message == f"{path} has no downgrade(), and no revision was run"
    assert failure.advice.startswith("write downgrade() into the file")
    assert (failure.blames, target.reverted, failure.applied) == ("surroundings", (), ())
    assert heads(database_url) == {"r3"} and tables(database_url) == before
    assert (await migrator.rollback("r2")).outcome == "reverted"  # r2 stays, and may lack it


@pytest.mark.parametrize("act", ["run", "check", "plan", "doctor"])
async def test_a_revision_without_a_way_up_is_told_before_anything_runs(
    act: str, make_target: Make, versions: Path, database_url: str
) -> None:
    migrator = Migrator(make_target(), mode="migrate")
    text = without(versions, "r3", "downgrade").read_text()
    path = versions / "r3_.py"
    path.write_text(text.partition("def upgrade()")[0])

    try:
        said = str(await getattr(migrator, act)())
    except Exception as error:  # noqa: BLE001 - each tells it in its own way
        said = str(error)

    assert f"{path} has no upgrade(), and no revision was run" in said
    assert not tables(database_url) - {"alembic_version"}


async def test_an_attribute_error_of_a_revisions_own_is_its_failure(
    make_target: Make, versions: Path, database_url: str
) -> None:
    """As one of a module that the file imports, or of `op`."""
    migrator = Migrator(make_target(), mode="migrate")
    await migrator.run()
    path = without(versions, "r3", "downgrade")
    path.write_text(f"{path.read_text()}def downgrade() -> None:\n    op.downgrade\n")

    with pytest.raises(MigrationError) as raised:
        await migrator.rollback("base")

    (failure,) = raised.value.report.targets[0].failures
    assert (failure.kind, failure.revision, failure.state) == ("revision", "r3", "clean")
    assert "has no attribute 'downgrade'" in failure.message
    assert heads(database_url) == {"r3"}


def test_the_command_says_it_and_ends_as_for_a_failed_migration(
    make_target: Make, versions: Path, database_url: str
) -> None:
    target = make_target()
    url = make_url(database_url).render_as_string(hide_password=False)
    command = [sys.executable, "-m", "automigrator"]
    asked = ["--config", str(target.config), "--yes"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words, *asked],
            env={"AUTOMIGRATOR_URL": url, "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )

    assert run("run").returncode == 0
    path = without(versions, "r2", "downgrade")

    ended = run("rollback", "base")

    assert ended.returncode == 5, ended.stderr
    assert f"revision in revision r2: {path} has no downgrade()" in ended.stderr
    assert "what to do: write downgrade() into the file" in ended.stderr
    assert heads(database_url) == {"r3"}
