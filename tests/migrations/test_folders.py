"""Folders without revisions: a mistake is told, and an empty folder is noted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.alembic_projects import Project, configure, heads, linear, project, revision, tables

from automigrator import MigrationError, Migrator, Target

Move = Callable[[Project], object]


def nested(made: Project) -> None:
    folder = made.versions / "2024"
    folder.mkdir()
    for file in made.versions.glob("*.py"):
        file.rename(folder / file.name)


def renamed(made: Project) -> None:
    made.versions.rename(made.versions.with_name("version"))


def misspelt(made: Project) -> None:
    configure(made, version_locations="%(here)s/migrations/versoins")


def one_of_two(made: Project) -> None:
    places = f"%(here)s/migrations/versions{os.pathsep}%(here)s/migrations/plugin"
    configure(made, version_locations=places)


def another_folder(made: Project) -> None:
    (made.config.parent / "other").mkdir()
    configure(made, version_locations="%(here)s/other")


def compiled(made: Project) -> None:
    subprocess.run([sys.executable, "-m", "compileall", "-qb", made.versions], check=True)
    for file in made.versions.glob("*.py"):
        file.unlink()


def beside_env_py(made: Project) -> None:
    for file in made.versions.glob("*.py"):
        file.rename(made.versions.parent / file.name)


MISTAKES: dict[str, tuple[Move, str]] = {
    "a folder is missing": (renamed, "versions, where Alembic's options look"),
    "a typing error": (misspelt, "versoins, where Alembic's options look"),
    "one of two is missing": (one_of_two, "plugin, where Alembic's options look"),
    "in a folder within": (nested, "recursive_version_locations = true"),
    "in the other folder": (another_folder, "r1_.py is one"),
    "compiled": (compiled, "sourceless = true"),
    "beside env.py": (beside_env_py, "r1_.py is one"),
}


async def failure(target: Target) -> tuple[str | None, str]:
    with pytest.raises(MigrationError) as raised:
        await Migrator(target, mode="migrate").run()
    (told,) = raised.value.report.targets[0].failures
    return told.kind, str(raised.value)


@pytest.mark.long(
    "typing error", "in the other folder", "beside env.py", "compiled", "within", "one of two"
)
@pytest.mark.parametrize("before", ["empty", "migrated"])
@pytest.mark.parametrize("mistake", MISTAKES)
async def test_revisions_out_of_sight_are_a_failure(
    mistake: str, before: str, sqlite_url: str, tmp_path: Path
) -> None:
    move, message = MISTAKES[mistake]
    made = project(tmp_path, "generic", sqlite_url)
    if before == "migrated":
        await Migrator(Target(sqlite_url, made.config), mode="migrate").run()
    held = tables(sqlite_url)
    move(made)
    kind, told = await failure(Target(sqlite_url, made.config))
    assert kind == "history"
    assert message in told
    assert tables(sqlite_url) == held


async def test_a_relative_folder_is_found_from_the_inis_and_else_said_to_start_elsewhere(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project(tmp_path, "generic", sqlite_url)
    configure(made, version_locations="migrations/version")
    monkeypatch.chdir("/")
    kind, told = await failure(Target(sqlite_url, made.config))
    assert kind == "history"
    assert "no folder /migrations/version" in told
    assert "%(here)s" in told
    another = project(tmp_path / "another", "generic", sqlite_url)
    configure(another, version_locations="migrations/versions")
    report = await Migrator(Target(sqlite_url, another.config), mode="migrate").run()
    assert report.outcome == "migrated"


async def test_the_folders_are_those_that_env_py_names(sqlite_url: str, tmp_path: Path) -> None:
    made = project(tmp_path, "replaces_version_locations", sqlite_url)
    (made.versions.parent / "migrations" / "versions").rmdir()
    assert (
        await Migrator(Target(sqlite_url, made.config), mode="migrate").run()
    ).outcome == "migrated"
    made.versions.rename(tmp_path / "gone")
    kind, told = await failure(Target(sqlite_url, made.config))
    assert kind == "history"
    assert f"no folder {made.versions}" in told


async def test_what_alembic_finds_there_is_no_mistake(sqlite_url: str, tmp_path: Path) -> None:
    made = project(tmp_path, "generic", sqlite_url)
    nested(made)
    configure(made, recursive_version_locations="true")
    assert (
        await Migrator(Target(sqlite_url, made.config), mode="migrate").run()
    ).outcome == "migrated"
    assert heads(sqlite_url) == {"r3"}


@pytest.mark.parametrize("kind", ["generic", "version_table"])
async def test_an_empty_folder_is_current_and_noted(
    kind: str, sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = project(tmp_path, kind, sqlite_url, revisions=lambda _: None)
    migrator = Migrator(Target(sqlite_url, made.config), mode="migrate")
    (report,) = (await migrator.run()).targets
    assert report.outcome == "current"
    assert f"no revision in {made.versions}" in report.notes[0]
    assert [each.levelname for each in caplog.records if "no revision" in each.message] == [
        "WARNING"
    ]
    assert "no revision in" in str(await migrator.check())


@pytest.mark.long("version_table")
@pytest.mark.parametrize("kind", ["generic", "version_table"])
async def test_an_empty_folder_is_older_than_a_database_with_a_row(
    kind: str, sqlite_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, kind, sqlite_url, revisions=linear)
    await Migrator(Target(sqlite_url, made.config), mode="migrate").run()
    for file in made.versions.glob("*.py"):
        file.unlink()
    told, _ = await failure(Target(sqlite_url, made.config))
    assert told == "ahead"


@pytest.mark.long
async def test_another_folder_of_env_py_is_asked_for_where_the_table_is_named(
    sqlite_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, "replaces_version_locations", sqlite_url)
    target = Target(sqlite_url, made.config, version_table="alembic_version")
    await Migrator(target, mode="migrate").run()
    old = made.versions.parent / "migrations" / "versions"
    linear(old)
    revision(made.versions, "r4", "r3")
    await Migrator(target, mode="migrate").run()
    assert heads(sqlite_url) == {"r4"}
