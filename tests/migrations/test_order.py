"""Revisions are read while env.py runs, as `alembic upgrade` reads them: they may need it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import plain_alembic
from support.alembic_projects import Project, contents, project, query, revision, tables

from automigrator import MigrationError, Migrator, Target

pytestmark = pytest.mark.long("an environment variable", "a folder on sys.path")

FOUND = "config = context.config\n"

TABLE = 'op.create_table("t", sa.Column("who", sa.String(80)))'


def made(
    folder: Path, url: str, header: str, value: str, env: str = "", into: str = FOUND
) -> Project:
    """A project of one revision that writes `value`; `env` is put after a line of env.py."""

    def revisions(versions: Path) -> None:
        upgrade = f'{TABLE}\nop.execute(sa.text("insert into t values (:x)").bindparams(x={value}))'
        revision(versions, "r1", None, header=header, upgrade=upgrade)

    it = project(folder, "generic", url, revisions=revisions, other_url=url)
    file = it.versions.parent / "env.py"
    text = file.read_text("utf-8")
    assert into in text
    file.write_text(text.replace(into, f"{into}{env}\n", 1), "utf-8")
    for name in ("helpers_beside_env", "helpers_of_the_online_mode"):
        (it.versions.parent / f"{name}.py").write_text('NAME = "helped"\n', "utf-8")
    return it


PATH = "import os, sys\nsys.path.insert(0, os.path.dirname(__file__))\n"

IN_FUNCTION = PATH.replace("\nsys", "\n    sys").replace("import", "    import", 1)

SITUATIONS = {
    "a folder on sys.path": ("from helpers_beside_env import NAME", "NAME", PATH, FOUND),
    "a folder that only the online mode adds": (
        "from helpers_of_the_online_mode import NAME",
        "NAME",
        IN_FUNCTION,
        "def run_migrations_online() -> None:\n",
    ),
    "an environment variable": (
        'import os\nNAME = os.environ["AUTOMIGRATOR_TEST_NAME"]',
        "NAME",
        'import os\nos.environ["AUTOMIGRATOR_TEST_NAME"] = "env.py"\n',
        FOUND,
    ),
    "an environment variable with a default": (
        'import os\nNAME = os.environ.get("AUTOMIGRATOR_TEST_NAME", "nobody")',
        "NAME",
        'import os\nos.environ["AUTOMIGRATOR_TEST_NAME"] = "env.py"\n',
        FOUND,
    ),
    "an x argument": (
        'from alembic import context\nNAME = context.get_x_argument(as_dictionary=True)["name"]',
        "NAME",
        "",
        FOUND,
    ),
    "an option of the configuration": (
        'from alembic import context\nNAME = context.config.get_main_option("who")',
        "NAME",
        'config.set_main_option("who", "env.py")',
        FOUND,
    ),
    "the connection": (
        "from alembic import op\nNAME = op.get_bind().dialect.driver",
        "NAME",
        "",
        FOUND,
    ),
}


@pytest.mark.long("an x argument", "an option", "the connection")
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_a_revision_finds_what_env_py_has_set_up(situation: str, tmp_path: Path) -> None:
    alone, ours = (f"sqlite:///{tmp_path}/{name}.db" for name in ("alone", "ours"))
    twin = made(tmp_path / "alone", alone, *SITUATIONS[situation])
    plain_alembic.upgraded(twin.config, "-x", "name=given", check=True)
    it = made(tmp_path / "ours", ours, *SITUATIONS[situation])
    environ = dict(os.environ)
    target = Target(ours, it.config, x=["name=given"])

    status = await Migrator(target).check()
    report = await Migrator(target, mode="migrate").run()

    if situation not in ("a folder that only the online mode adds", "the connection"):
        assert status.targets[0].pending == ("r1",)  # without a database, in offline mode
    assert report.outcome == "migrated"
    assert contents(ours) == contents(alone)
    assert dict(os.environ) == environ
    assert (await Migrator(target, mode="migrate").run()).outcome == "current"
    assert (await Migrator(target).check()).current


async def test_the_sql_of_a_plan_is_that_of_the_revision_with_env_py_around_it(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    situation = SITUATIONS["an environment variable with a default"]
    it = made(tmp_path, url, *situation)
    (plan,) = await Migrator(Target(url, it.config)).plan(sql=True)
    assert "env.py" in str(plan.sql)


async def test_env_py_may_say_where_the_revisions_are(tmp_path: Path) -> None:
    """`version_locations` of the script directory counts until its revisions are read."""
    env = 'context.script.version_locations = [os.path.dirname(__file__) + "/elsewhere"]'
    alone, ours = (f"sqlite:///{tmp_path}/{name}.db" for name in ("alone", "ours"))
    for url in (alone, ours):
        folder = tmp_path / Path(url).stem
        it = made(folder, url, "", "'x'", f"import os\n{env}")
        it.versions.rename(it.versions.with_name("elsewhere"))
        it.versions.mkdir()
        if url == alone:
            plain_alembic.upgraded(it.config, check=True)

    target = Target(ours, it.config)
    report = await Migrator(target, mode="migrate").run()

    assert report.outcome == "migrated"
    assert contents(ours) == contents(alone)
    assert (await Migrator(target, mode="migrate").run()).outcome == "current"


async def test_a_revision_that_cannot_be_read_by_env_py_either_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    it = made(tmp_path, url, "import nowhere_to_be_found", "'x'")
    with pytest.raises(MigrationError) as caught:
        await Migrator(Target(url, it.config), mode="migrate").run()
    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.state) == ("history", "clean")
    assert "r1_.py cannot be imported" in failure.message
    assert "nowhere_to_be_found" in failure.message
    assert tables(url) == set()


async def test_a_table_in_the_applications_metadata_may_be_defined_by_a_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy refuses to define it twice; a revision is read more often than that."""
    url = f"sqlite:///{tmp_path}/app.db"
    (tmp_path / "app_of_test_order.py").write_text("import sqlalchemy\nm = sqlalchemy.MetaData()\n")
    monkeypatch.syspath_prepend(tmp_path)
    header = 'from app_of_test_order import m\nTHE = sa.Table("x", m, sa.Column("id", sa.Integer))'
    it = made(tmp_path, url, header, "THE.name")
    assert (await Migrator(Target(url, it.config), mode="migrate").run()).outcome == "migrated"
    assert query(url, "select who from t") == [("x",)]
