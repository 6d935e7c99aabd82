"""Where the command's migrator comes from, and which files it does not trust."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import pytest
from support.alembic_projects import heads
from support.other_user import NOBODY

from automigrator import ConfigurationError, Migrator
from automigrator.cli.factory import awaited, made
from automigrator.cli.options import Options
from automigrator.cli.source import Found, Source, found

URL = "postgresql://user@server/app"
WITH_PASSWORD = "postgresql://user:canary-argv@server/app"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an alembic.ini that is nobody else's."""
    tmp_path.chmod(0o700)
    write(tmp_path / "alembic.ini", "[alembic]\nscript_location = migrations\n")
    return tmp_path


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def table(folder: Path, text: str, mode: int = 0o644) -> Path:
    return write(folder / "pyproject.toml", f"[tool.automigrator]\n{text}\n", mode)


def looked(folder: Path, environment: dict[str, str] | None = None, **given: Any) -> Found:
    options = Options()
    for name, value in given.items():
        setattr(options, name, value)
    return found(options, environment or {}, folder)


def refused(folder: Path, environment: dict[str, str] | None = None, **given: Any) -> str:
    with pytest.raises((ConfigurationError, click.UsageError)) as caught:
        looked(folder, environment, **given)
    assert "canary" not in str(caught.value)
    return str(caught.value)


class TestTheOrder:
    def test_the_command_line_comes_first(self, folder: Path) -> None:
        table(folder, 'app = "file:migrator"')
        environment = {"AUTOMIGRATOR_APP": "variable:migrator", "AUTOMIGRATOR_URL": URL}
        assert looked(folder, environment, app="option:migrator").source.origin == "--app"
        assert looked(folder, environment, url="sqlite:///a.db").source.origin == "--url"
        assert looked(folder, environment).source.app == "variable:migrator"
        del environment["AUTOMIGRATOR_APP"]
        assert looked(folder, environment).source.app == "file:migrator"

    def test_a_url_in_the_environment_comes_last_and_is_told(self, folder: Path) -> None:
        environment = {"AUTOMIGRATOR_URL": URL, "DATABASE_URL": WITH_PASSWORD}
        source = looked(folder, environment).source
        assert (source.origin, source.always_told) == ("AUTOMIGRATOR_URL", True)
        assert source.config == folder / "alembic.ini"
        del environment["AUTOMIGRATOR_URL"]
        assert looked(folder, environment).source.url.password == "canary-argv"

    def test_what_contradicts_itself_is_wrong_usage(self, folder: Path) -> None:
        assert "drop --url" in refused(folder, app="a:b", url=URL)
        assert "drop --config" in refused(folder, app="a:b", config=Path("alembic.ini"))
        assert "drop one" in refused(folder, url=URL, url_file=Path("url"))

    def test_nothing_at_all_says_what_there_could_be(self, folder: Path) -> None:
        text = refused(folder)
        assert all(way in text for way in ("--app", "pyproject.toml", "--url", "DATABASE_URL"))


class TestPasswords:
    def test_none_is_taken_from_the_arguments(self, folder: Path) -> None:
        text = refused(folder, url=WITH_PASSWORD)
        assert "every user of this machine can see" in text and "AUTOMIGRATOR_URL" in text

    def test_none_is_taken_from_a_pyproject(self, folder: Path) -> None:
        table(folder, f'url = "{WITH_PASSWORD}"')
        assert "is read by all who read the repository" in refused(folder)

    @pytest.mark.parametrize(("mode", "ok"), [(0o600, True), (0o400, True), (0o644, False)])
    def test_a_file_of_ours_that_nobody_else_reads_holds_it(
        self, folder: Path, mode: int, ok: bool
    ) -> None:
        file = write(folder / "url", WITH_PASSWORD + "\n", mode)
        if ok:
            assert looked(folder, url_file=file).source.url.password == "canary-argv"
        else:
            assert f"chmod 600 {file}" in refused(folder, url_file=file)


class TestPyproject:
    def test_it_is_the_nearest_that_has_the_table(self, folder: Path) -> None:
        table(folder, 'app = "outer:migrator"')
        inner = folder / "package" / "inner"
        inner.mkdir(parents=True)
        write(inner.parent / "pyproject.toml", "[project]\nname = 'other'\n")
        source = looked(inner).source
        assert (source.app, source.folder) == ("outer:migrator", folder)
        assert source.origin == f"[tool.automigrator] in {folder / 'pyproject.toml'}"

    def test_its_paths_are_beside_it_wherever_the_command_is_called(self, folder: Path) -> None:
        table(folder, 'url = "sqlite:///data/app.db"\nname = "primary"')
        inner = folder / "inner"
        inner.mkdir()
        source = looked(inner).source
        assert source.url.database == str(folder / "data" / "app.db")
        assert (source.config, source.name) == (folder / "alembic.ini", "primary")

    def test_url_env_names_the_variable_that_holds_the_url(self, folder: Path) -> None:
        table(folder, 'url_env = "OURS"')
        assert "OURS is not set" in refused(folder)
        assert looked(folder, {"OURS": WITH_PASSWORD}).source.url.password == "canary-argv"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("ap = 'a:b'", "no key 'ap'"),
            ("app = 'a'", "should be package.module:migrator"),
            ("app = 1", "should hold texts"),
            ("app = 'a:b'\nurl_env = 'U'", "app and url_env"),
            ("name = 'n'", "has none"),
            ("app = ", "cannot be read"),
        ],
    )
    def test_what_is_wrong_in_it_is_said(self, folder: Path, text: str, says: str) -> None:
        table(folder, text)
        assert says in refused(folder)


class TestTrust:
    def test_a_pyproject_that_others_may_write_to_is_ignored_in_words(self, folder: Path) -> None:
        path = table(folder, 'app = "planted:migrator"', 0o666)
        seen = looked(folder, {"AUTOMIGRATOR_URL": URL})
        assert seen.source.origin == "AUTOMIGRATOR_URL"
        assert seen.ignored == (f"{path} is ignored: others may write to it (mode 666)",)
        assert str(path) in refused(folder)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_one_that_another_user_owns_is_ignored(self, folder: Path) -> None:
        path = table(folder, 'app = "planted:migrator"')
        os.chown(path, NOBODY, NOBODY)
        (ignored,) = looked(folder, {"AUTOMIGRATOR_URL": URL}).ignored
        assert f"it belongs to user {NOBODY}" in ignored

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_a_link_that_another_user_made_is_ignored(self, folder: Path) -> None:
        real = write(folder / "real.toml", "[tool.automigrator]\napp = 'a:b'\n")
        link = folder / "pyproject.toml"
        link.symlink_to(real)
        assert looked(folder).source.app == "a:b"
        os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
        (ignored,) = looked(folder, {"AUTOMIGRATOR_URL": URL}).ignored
        assert f"a symbolic link of user {NOBODY}" in ignored

    def test_an_alembic_ini_that_others_may_write_to_is_used_only_where_it_is_named(
        self, folder: Path
    ) -> None:
        ini = folder / "alembic.ini"
        ini.chmod(0o646)
        assert "others may write to it (mode 646)" in refused(folder, url="sqlite:///a.db")
        assert looked(folder, url="sqlite:///a.db", config=ini).source.config == ini


class TestAnApplicationsOwn:
    async def got(self, folder: Path, name: str, text: str) -> Migrator:
        module = f"made_{folder.name.replace('-', '_')}_{abs(hash(text))}"
        (folder / f"{module}.py").write_text(text)
        source = Source("--app", app=f"{module}:{name}", folder=folder)
        return await awaited(made(source), source)

    MIGRATOR = (
        "from automigrator import Migrator, Target\n"
        "migrator = Migrator(Target('sqlite:///a.db', {!r}))\n"
        "class settings:\n    migrator = migrator\n"
        "def factory(): return migrator\n"
        "async def async_factory(): return migrator\n"
        "class WithCall:\n    def __call__(self): return migrator\n"
        "callable_object = WithCall()\n"
    )

    @pytest.mark.parametrize(
        "name", ["migrator", "settings.migrator", "factory", "async_factory", "callable_object"]
    )
    async def test_is_an_object_or_a_factory(self, folder: Path, name: str) -> None:
        ini = str(folder / "alembic.ini")
        migrator = await self.got(folder, name, self.MIGRATOR.format(ini))
        assert isinstance(migrator, Migrator)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("migrator = 1", "is of the type int, and should be a Migrator"),
            ("migrater = 1", "has no 'migrator'; did you mean migrater?"),
            ("import absent", "cannot be imported from"),
            ("raise SystemExit(3)", "SystemExit: 3; nothing was done"),
            ("def migrator(x): ...", "cannot be called without arguments"),
            ("async def migrator(): raise OSError('away')", "failed: OSError: away"),
        ],
    )
    async def test_is_refused_in_words(self, folder: Path, text: str, says: str) -> None:
        with pytest.raises(ConfigurationError, match=says.replace("?", r"\?")):
            await self.got(folder, "migrator", text)


def test_a_pyproject_is_told_and_used_by_the_command(on_sqlite) -> None:
    on_sqlite.folder.chmod(0o700)
    path = table(on_sqlite.folder, 'url = "sqlite:///app.db"')
    answer = on_sqlite.automigrator("run", AUTOMIGRATOR_APP="")
    assert (answer.code, heads(on_sqlite.url)) == (0, {"r3"})
    assert answer.err.splitlines()[0] == (
        f"using {on_sqlite.folder / 'alembic.ini'} for sqlite:///{on_sqlite.folder / 'app.db'} "
        f"([tool.automigrator] in {path})"
    )
