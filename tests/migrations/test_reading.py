"""Revisions are run once in a start where their files prove that env.py cannot change them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.config import Config
from support.alembic_projects import Project, project, query, revision

from automigrator import Migrator, Target
from automigrator.migrations import alembic_private
from automigrator.migrations.history import History
from automigrator.migrations.reading import directory

MANY = 60

BODY = 'op.create_table("t{0}", sa.Column("id", sa.Integer))'


def many(folder: Path) -> None:
    for number in range(MANY):
        down = f"r{number - 1}" if number else None
        revision(folder, f"r{number}", down, upgrade=BODY.format(number))


@pytest.fixture
def made(tmp_path: Path) -> Project:
    return project(tmp_path, "generic", f"sqlite:///{tmp_path}/app.db", revisions=many)


@pytest.fixture
def config(made: Project) -> Config:
    return Config(str(made.config))


def module_of(history: History) -> object:
    return alembic_private.script_of(history.script, "r7").module


def adopted(history: History, config: Config) -> bool:
    """Whether env.py's directory takes the modules that were read before."""
    before, script = module_of(history), directory(config)
    history.adopt(script)
    assert history.script is script
    return module_of(history) is before


def test_what_was_read_before_env_py_is_run_once(config: Config) -> None:
    history = History(config)
    assert adopted(history, config)
    assert not adopted(history, config), "another run may find what the first has left in them"


def test_a_copy_for_another_target_shares_that_once(config: Config) -> None:
    history = History(config)
    copy = history.copy()
    assert adopted(copy, config)
    assert not adopted(history, config)


def append(path: Path) -> None:
    path.write_text(f"{path.read_text('utf-8')}\n# edited\n", "utf-8")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file that was edited": lambda folder: append(folder / "r3_.py"),
    "a file that came": lambda folder: revision(folder, "late", "r59"),
    "a file that went": lambda folder: (folder / "r59_.py").unlink(),
    "a file of the same size and a later time": lambda folder: os.utime(folder / "r3_.py", (9, 9)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_files_that_are_not_as_they_were_are_read_again(
    made: Project, config: Config, change: Callable[[Path], object]
) -> None:
    history = History(config)
    change(made.versions)
    assert not adopted(history, config)


def test_a_file_whose_top_level_may_depend_on_env_py_is_run_again(
    made: Project, config: Config
) -> None:
    revision(made.versions, "r60", "r59", header="import os\nNAME = os.environ.get('NAME')")
    assert not adopted(History(config), config)


def test_another_folder_of_env_py_is_read(made: Project, config: Config, tmp_path: Path) -> None:
    history = History(config)
    many(tmp_path / "others")
    config.set_main_option("version_locations", str(tmp_path / "others"))
    assert not adopted(history, config)


@pytest.mark.parametrize("depends", [False, True], ids=["fixed", "depends on env.py"])
async def test_a_long_history_writes_what_env_py_says(tmp_path: Path, depends: bool) -> None:
    def revisions(folder: Path) -> None:
        many(folder)
        header = "import os\nNAME = os.environ.get('AUTOMIGRATOR_TEST_NAME', 'nobody')"
        name = "NAME" if depends else '__import__("os").environ["AUTOMIGRATOR_TEST_NAME"]'
        upgrade = f"op.execute(f'CREATE TABLE {{{name}}} (id INTEGER)')"
        revision(folder, "r60", "r59", header=header if depends else "", upgrade=upgrade)

    url = f"sqlite+aiosqlite:///{tmp_path}/app.db"
    it = project(tmp_path, "generic", url, revisions=revisions, other_url=url)
    environment = it.versions.parent / "env.py"
    text = "import os\nos.environ['AUTOMIGRATOR_TEST_NAME'] = 'made_by_env'\n"
    environment.write_text(text + environment.read_text("utf-8"), "utf-8")

    report = await Migrator(Target(url, it.config), mode="migrate").run()

    assert report.outcome == "migrated"
    assert query(url, "select count(*) from sqlite_master where name = 'made_by_env'") == [(1,)]
