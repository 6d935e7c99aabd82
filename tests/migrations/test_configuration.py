"""env.py is given the application's own configuration: what its command line, or its code, gave."""

from __future__ import annotations

import builtins
import compileall
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from alembic.config import CommandLine, Config
from sqlalchemy import make_url
from support import plain_alembic
from support.alembic_projects import Project, configure, project, revision, tables

from automigrator import ConfigurationError, MigrationError, Migrator, Target
from automigrator.migrations.config import alembic_config

FOUND = "config = context.config\n"


def one(versions: Path) -> None:
    revision(versions, "r1", None, upgrade='op.create_table("t", sa.Column("x", sa.Integer))')


def made(folder: Path, url: str, env: str = "", **options: str) -> Project:
    it = project(folder, "generic", url, revisions=one, other_url=url)
    file = it.versions.parent / "env.py"
    file.write_text(file.read_text("utf-8").replace(FOUND, f"{FOUND}{env}\n", 1), "utf-8")
    if options:
        configure(it, **options)
    return it


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/app.db"


async def run(target: Target) -> str:
    return (await Migrator(target, mode="migrate").run()).outcome


class OwnConfig(Config):
    """Of an application that hands things to its env.py."""

    bind_key = "main"

    def tenants(self) -> list[str]:
        return ["a"]


async def test_a_subclass_of_config_and_its_attributes_reach_env_py(
    tmp_path: Path, url: str
) -> None:
    env = 'assert (config.tenants(), config.bind_key, config.extra) == (["a"], "other", 1)'
    it = made(tmp_path, url, env)
    config = OwnConfig(it.config)
    config.bind_key, config.extra = "other", 1  # type: ignore[attr-defined]  # as it may be
    assert await run(Target(url, config)) == "migrated"


async def test_the_section_of_a_config_counts_unless_the_target_names_one(
    tmp_path: Path, url: str
) -> None:
    it = made(tmp_path, url, 'assert config.get_main_option("who") == "second"')
    text = it.config.read_text("utf-8")
    section = text[text.index("[alembic]") :].split("\n[", 1)[0].replace("[alembic]", "[second]")
    it.config.write_text(f"{text}\n{section}\nwho = second\n", "utf-8")
    config = Config(it.config, ini_section="second")
    assert alembic_config(Target(url, config), make_url(url)).config_ini_section == "second"
    named = Target(url, config, section="third")
    with pytest.raises(ConfigurationError, match=r"no script_location in section \[third\]"):
        alembic_config(named, make_url(url))
    assert await run(Target(url, config)) == "migrated"


@pytest.mark.parametrize(
    ("given", "x", "found"),
    [
        (None, [], None),
        (None, ["a=b"], {"x": ["a=b"]}),
        (Namespace(x=["a=1"], own=2), [], {"x": ["a=1"], "own": 2}),
        (Namespace(x=["a=1"], own=2), ["b=2"], {"x": ["b=2"], "own": 2}),
    ],
)
def test_the_options_of_a_given_config_are_its_own(
    given: Namespace | None, x: list[str], found: object, tmp_path: Path, url: str
) -> None:
    config = Config(made(tmp_path, url).config, cmd_opts=given)
    options = alembic_config(Target(url, config, x=x), make_url(url)).cmd_opts
    assert (options and vars(options)) == found
    assert config.cmd_opts is given


def test_the_options_of_an_ini_are_those_of_the_command_line(tmp_path: Path, url: str) -> None:
    it = made(tmp_path, url)
    line = ["-c", str(it.config), "-x", "a=b", "upgrade", "heads"]
    expected = vars(CommandLine().parser.parse_args(line))
    options = alembic_config(Target(url, it.config, x=["a=b"]), make_url(url)).cmd_opts
    assert vars(options or Namespace()) == expected


async def test_a_rollback_has_the_options_of_a_downgrade(tmp_path: Path, url: str) -> None:
    it = made(tmp_path, url)
    line = ["-c", str(it.config), "downgrade", "base"]
    expected = vars(CommandLine().parser.parse_args(line))
    env = it.versions.parent / "env.py"
    note = "import builtins\nbuiltins.noted.append(vars(config.cmd_opts))\n"
    env.write_text(f"{env.read_text('utf-8')}\n{note}", "utf-8")
    noted: list[dict[str, Any]] = []
    builtins.noted = noted  # type: ignore[attr-defined]
    try:
        migrator = Migrator(Target(url, it.config), mode="migrate")
        await migrator.run()
        await migrator.rollback("base")
    finally:
        del builtins.noted  # type: ignore[attr-defined]

    assert [each["cmd"][0].__name__ for each in noted].count("downgrade") == 1
    assert noted[-1] == expected


LOCATED = {
    "script_location": "migrations",
    "version_locations": "migrations/versions",
    "prepend_sys_path": ".",
    "path_separator": "os",
}


@pytest.mark.long("[migrations")
@pytest.mark.parametrize("location", ["migrations", "%(here)s/migrations"])
async def test_what_an_ini_names_is_found_from_elsewhere(
    location: str, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service is started in `/`; the command line is used where the ini is."""
    name = f"helper_{len(location)}"
    it = made(tmp_path / "p", url, f"import {name}")
    text = "\n".join(
        line
        for line in it.config.read_text("utf-8").splitlines()
        if line.split(" =")[0] not in LOCATED
    )
    it.config.write_text(text + "\n", "utf-8")
    configure(it, **{**LOCATED, "script_location": location})
    (it.config.parent / f"{name}.py").write_text("")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    target = Target(url, it.config)
    assert not (await Migrator(target).check()).current
    assert await run(target) == "migrated"
    assert "t" in tables(url)
    assert await run(target) == "current"


async def test_paths_that_are_found_from_the_cwd_stay(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = made(tmp_path, url)
    (tmp_path / "conf").mkdir()
    ini = it.config.rename(tmp_path / "conf" / "alembic.ini")
    text = ini.read_text("utf-8")
    ini.write_text(
        re.sub("(?m)^script_location = .*", "script_location = migrations", text), "utf-8"
    )
    monkeypatch.chdir(tmp_path)
    config = alembic_config(Target(url, ini), make_url(url))
    assert config.get_prepend_sys_paths_list() == ["."]
    assert config.get_main_option("path_separator") == "os"


async def test_a_script_directory_may_be_below_a_folder_with_a_percent_sign(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    it = made(tmp_path / "100%(done)s", url)
    assert await run(Target(url, it.versions.parent)) == "migrated"


async def test_env_py_may_be_in_another_encoding(tmp_path: Path, url: str) -> None:
    it = made(tmp_path, url)
    file = it.versions.parent / "env.py"
    text = f'# -*- coding: latin-1 -*-\nNAME = "é"\nassert ord(NAME) == 233\n{file.read_text()}'
    file.write_bytes(text.encode("latin-1"))
    first = next(it.versions.glob("*.py"))
    first.write_bytes(f"# -*- coding: latin-1 -*-\n# é\n{first.read_text()}".encode("latin-1"))
    assert await run(Target(url, it.config)) == "migrated"
    assert await run(Target(url, it.config)) == "current"


async def test_env_py_and_revisions_may_be_there_without_their_source(
    tmp_path: Path, url: str
) -> None:
    it = made(tmp_path, url, sourceless="true")
    compileall.compile_dir(it.versions.parent, quiet=1, legacy=True)
    for file in it.versions.parent.rglob("*.py"):
        file.unlink()
    assert await run(Target(url, it.config)) == "migrated"
    assert await run(Target(url, it.config)) == "current"


@pytest.mark.long
async def test_a_byte_order_mark_is_named(tmp_path: Path, url: str) -> None:
    it = made(tmp_path, url)
    it.config.write_bytes(b"\xef\xbb\xbf" + it.config.read_bytes())
    assert plain_alembic.upgraded(it.config).returncode != 0
    with pytest.raises(MigrationError, match="alembic.ini begins with a byte-order mark"):
        await run(Target(url, it.config))
    assert tables(url) == set()
