"""Revisions are run again inside env.py; their graph is made anew where it may differ."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import alembic.script.base
import pytest
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionMap
from support.alembic_projects import Project, linear, project, query, revision

from automigrator import Migrator, Target
from automigrator.errors import HistoryError, RevisionImportError
from automigrator.migrations import alembic_private
from automigrator.migrations.history import History
from automigrator.migrations.revision_graph import directory

NAME = "AUTOMIGRATOR_TEST_NAME"


@pytest.fixture
def made(tmp_path: Path) -> Project:
    return project(tmp_path, "generic", f"sqlite:///{tmp_path}/app.db", revisions=linear)


@pytest.fixture
def config(made: Project) -> Config:
    return Config(str(made.config))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that Alembic itself has loaded, in order."""
    files: list[str] = []
    load = Script.__dict__["_from_path"].__func__

    def from_path(cls: type[Script], script: ScriptDirectory, path: Any) -> Any:
        files.append(Path(path).name)
        return load(cls, script, path)

    monkeypatch.setattr(Script, "_from_path", classmethod(from_path))
    return files


def module_of(history: History, revision: str) -> Any:
    return alembic_private.script_of(history.script, revision).module


def test_the_graph_stays_and_the_modules_are_new_each_time(
    config: Config, loaded: list[str]
) -> None:
    history = History(config)
    loaded.clear()
    modules = [module_of(history, "r2")]
    for _ in range(3):
        script = directory(config)
        history.adopt(script)
        assert history.script is script
        assert alembic_private.ancestors(script, history.heads) == {"r1", "r2", "r3"}
        modules.append(module_of(history, "r2"))
    assert loaded == []
    assert len({id(each) for each in modules}) == 4
    assert len({id(each.upgrade.__globals__) for each in modules}) == 4
    (_, step, *_) = history.steps("heads", ())
    assert step.migration_fn is modules[-1].upgrade


def test_a_copy_for_another_target_has_modules_of_its_own(config: Config) -> None:
    history = History(config)
    copies = [history.copy(), history.copy()]
    for each in copies:
        each.adopt(directory(config))
    modules = {id(module_of(each, "r1")) for each in (history, *copies)}
    assert len(modules) == 3


def append(path: Path) -> None:
    path.write_text(f"{path.read_text('utf-8')}\n# edited\n", "utf-8")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file that was edited": lambda folder: append(folder / "r3_.py"),
    "a file that came": lambda folder: revision(folder, "late", "r3"),
    "a file that went": lambda folder: (folder / "r3_.py").unlink(),
    "a file of another time": lambda folder: os.utime(folder / "r3_.py", (9, 9)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_files_that_are_not_as_they_were_are_read_anew(
    made: Project, config: Config, loaded: list[str], change: Callable[[Path], object]
) -> None:
    history = History(config)
    digest = history.digest(["r1", "r2"])
    change(made.versions)
    loaded.clear()
    history.adopt(directory(config))
    there = {each.name for each in made.versions.glob("*.py")}
    assert set(loaded) == there
    assert {each.revision + "_.py" for each in history.ancestry(history.heads)} == there
    assert history.digest(["r1", "r2"]) == digest


PLACES = {
    "its parent": ("down_revision = os.environ.get('{}', 'r3')", "down_revision"),
    "its labels": ("branch_labels = (os.environ.get('{}', 'r3') + 'x',)", "branch_labels"),
    "what it depends on": ("depends_on = os.environ.get('{}')", "depends_on"),
    "something by a function": (
        "def __getattr__(name):\n"
        "    if name != 'depends_on': raise AttributeError(name)\n"
        "    return os.environ.get('{}')\n"
        "del depends_on",
        "depends_on",
    ),
    "a list that changes": (
        "import sys\nlabels = vars(sys).setdefault('_labels_of_a_test', [])\n"
        "labels[:] = [os.environ.get('{}', 'r3') + 'x']\nbranch_labels = labels",
        "branch_labels",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_file_that_says_something_else_than_before_is_believed(
    made: Project, config: Config, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    header = "import os\n" + PLACES[place][0].format(NAME)
    revision(made.versions, "r4", "r3", header=header)
    history = History(config)
    monkeypatch.setenv(NAME, "r2")
    history.adopt(directory(config))
    plain = ScriptDirectory.from_config(config)
    for script in (history.script, plain):
        script.get_heads()
    ours, theirs = (each.get_revision("r4") for each in (history.script, plain))
    for each in ("down_revision", "branch_labels", "dependencies"):
        assert getattr(ours, each) == getattr(theirs, each)
    assert set(history.heads) == set(plain.get_heads())


def test_a_file_that_no_longer_can_be_run_is_named(
    made: Project, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision(made.versions, "r4", "r3", header=f"import os\nassert {NAME!r} not in os.environ")
    history = History(config)
    monkeypatch.setenv(NAME, "1")
    with pytest.raises(RevisionImportError, match=r"r4_\.py cannot be imported: AssertionError"):
        history.adopt(directory(config))


def test_another_folder_of_env_py_is_read(
    config: Config, tmp_path: Path, loaded: list[str]
) -> None:
    history = History(config)
    revision(tmp_path / "others", "o1", None)
    script = directory(config)
    script.version_locations = [str(tmp_path / "others")]
    history.adopt(script)
    assert (history.heads, loaded[-1]) == (("o1",), "o1_.py")


def without_the_last(script: ScriptDirectory) -> Iterator[Script]:
    found = alembic_private.load_revisions(ScriptDirectory(script.dir))
    return (each for each in found if each.revision != "r3")


def loader(script: ScriptDirectory, patch: pytest.MonkeyPatch) -> None:
    vars(script)["_load_revisions"] = lambda: without_the_last(script)


def generator(script: ScriptDirectory, patch: pytest.MonkeyPatch) -> None:
    script.revision_map._generator = lambda: without_the_last(script)


def graph(script: ScriptDirectory, patch: pytest.MonkeyPatch) -> None:
    script.revision_map = RevisionMap(lambda: without_the_last(script))


def kind(script: ScriptDirectory, patch: pytest.MonkeyPatch) -> None:
    class Filtering(ScriptDirectory):
        _load_revisions = without_the_last

    script.__class__ = Filtering


def rule(script: ScriptDirectory, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(alembic.script.base, "_only_source_rev_file", re.compile(r"(r[12]_\.py)$"))


@pytest.mark.parametrize("put", [loader, generator, graph, kind, rule])
def test_what_env_py_puts_in_the_place_of_the_graph_counts_for_that_run(
    config: Config, monkeypatch: pytest.MonkeyPatch, put: Any
) -> None:
    history, script = History(config), directory(config)
    with monkeypatch.context() as patch:
        put(script, patch)
        history.adopt(script)
        assert history.heads == ("r2",)
    history.adopt(directory(config))
    assert history.heads == ("r3",)


def test_a_module_that_took_over_another_ones_names_is_loaded(
    made: Project, config: Config, tmp_path: Path
) -> None:
    template = revision(tmp_path / "templates", "r4", "r3")
    text = f"import importlib.util as u\ns = u.spec_from_file_location('t', {str(template)!r})\n"
    text += "t = u.module_from_spec(s)\ns.loader.exec_module(t)\nglobals().update(vars(t))\n"
    (made.versions / "r4_.py").write_text(f"{text}def upgrade():\n    'own'\n", "utf-8")
    history = History(config)
    history.adopt(directory(config))
    assert module_of(history, "r4").upgrade.__doc__ == "own"


def test_a_module_that_hides_how_it_was_made_is_loaded(made: Project, config: Config) -> None:
    revision(made.versions, "r4", "r3", header="del __spec__")
    history = History(config)
    history.adopt(directory(config))
    assert history.heads == ("r4",)


def test_a_file_is_run_no_third_time(
    made: Project, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = "import sys\nvars(sys).setdefault('_ran_in_a_test', []).append(revision)\n"
    monkeypatch.setattr(sys, "_ran_in_a_test", [], raising=False)
    header = f"import os\n{ran}depends_on = os.environ.get({NAME!r})"
    revision(made.versions, "r4", "r3", header=header)
    history = History(config)
    monkeypatch.setenv(NAME, "r2")
    history.adopt(directory(config))
    assert vars(sys)["_ran_in_a_test"] == ["r4", "r4"]
    assert history.script.get_revision("r4").dependencies == "r2"


def test_an_error_of_the_graph_is_one_of_the_history(
    made: Project, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = f"import os\ndown_revision = os.environ.get({NAME!r}, 'r3')"
    revision(made.versions, "r4", "r3", header=header)
    history = History(config)
    monkeypatch.setenv(NAME, "r4")
    with pytest.raises(HistoryError, match="loop"):
        history.adopt(directory(config))


def test_what_is_said_of_a_revision_is_what_it_says_now(
    made: Project, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = f"import os\n__doc__ = os.environ.get({NAME!r}, 'early')"
    revision(made.versions, "r4", "r3", header=header, branch_labels="b")
    history = History(config)
    other = history.copy()
    assert [each.doc for each in history.describe(["r4"])] == ["early"]
    monkeypatch.setenv(NAME, "late")
    other.adopt(directory(config))
    assert [each.doc for each in other.describe(["r4"])] == ["late"]
    assert [each.doc for each in history.describe(["r4"])] == ["early"]
    labels = [each.script.get_revision("r4").branch_labels for each in (history, other)]
    assert labels[0] == labels[1] == {"b"}
    assert labels[0] is not labels[1]


def test_a_link_that_leads_elsewhere_is_followed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        path = revision(tmp_path / name, "r1", None, header=f"NAME = {name!r}")
        os.utime(path, (9, 9))
    link = tmp_path / "link"
    link.symlink_to("one")
    project(tmp_path, "generic", f"sqlite:///{tmp_path}/app.db", revisions=lambda _: None)
    config = Config(str(tmp_path / "alembic.ini"))
    config.set_main_option("version_locations", str(link))
    history = History(config)
    link.unlink()
    link.symlink_to("two")
    history.adopt(directory(config))
    assert module_of(history, "r1").NAME == "two"


async def test_a_revision_writes_what_env_py_says_each_time(tmp_path: Path) -> None:
    """Its module has what it had when it was run, as in a command of its own."""

    def revisions(folder: Path) -> None:
        header = f"import os\nNAME = os.environ.get({NAME!r}, 'nobody')\nran = []"
        upgrade = "ran.append(1)\nop.execute(f'CREATE TABLE {NAME}_{len(ran)} (id INTEGER)')"
        revision(folder, "r1", None, header=header, upgrade=upgrade)

    for name in ("one", "two"):
        url = f"sqlite+aiosqlite:///{tmp_path}/{name}.db"
        it = project(tmp_path / name, "generic", url, revisions=revisions, other_url=url)
        environment = it.versions.parent / "env.py"
        text = f"import os\nos.environ[{NAME!r}] = {name!r}\n"
        environment.write_text(text + environment.read_text("utf-8"), "utf-8")
        report = await Migrator(Target(url, it.config), mode="migrate").run()
        assert report.outcome == "migrated"
        found = "select name from sqlite_master where sql like '%(id INTEGER)%'"
        assert query(url, found) == [(f"{name}_1",)]
