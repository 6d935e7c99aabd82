"""A backend that somebody else wrote: found by its dialect's name, and held to the same cases."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL
from sqlalchemy.dialects import registry
from support import alembic_projects

from automigrator import ConfigurationError, Migrator, PluginError, Target
from automigrator.backends import registry as installed
from automigrator.testing import BackendConformance, Databases, SQLiteFiles

SOURCE = Path(__file__).with_name("litelike.py")
DIALECT = "[sqlalchemy.dialects]\nlitelike.aiosqlite = am_litelike:LiteLikeDialect"
BACKEND = f"[{installed.ENTRY_POINT_GROUP}]\nlitelike = am_litelike:"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs distributions that each name a backend for the dialect."""

    def installs(*attributes: str, source: str = SOURCE.read_text("utf-8")) -> None:
        site = tmp_path / "site"
        for number, attribute in enumerate(attributes):
            info = site / f"litelike{number}-1.0.dist-info"
            info.mkdir(parents=True)
            name = f"Metadata-Version: 2.1\nName: litelike{number}\nVersion: 1.0\n"
            (info / "METADATA").write_text(name, "utf-8")
            entries = f"{DIALECT if number == 0 else ''}\n{BACKEND}{attribute}\n"
            (info / "entry_points.txt").write_text(entries, "utf-8")
        (site / "am_litelike.py").write_text(source, "utf-8")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, "am_litelike", raising=False)
        monkeypatch.setattr(registry, "impls", dict(registry.impls))

    return installs


class OtherFiles(SQLiteFiles):
    def url(self, name: str = "app") -> URL:
        return super().url(name).set(drivername="litelike+aiosqlite")


@pytest.mark.long("killed_", "snapshot", "side", "old_data", "prun", "of_many", "another_loop")
class TestLiteLike(BackendConformance):
    databases = ("litelike",)
    kills = 1

    def open_databases(self, kind: str, folder: Path, fixture: Callable[[str], Any]) -> Databases:
        fixture("install")("LiteLike")
        return OtherFiles(folder)


async def test_an_application_migrates_on_it(tmp_path: Path, install: Install) -> None:
    install("LiteLike")
    url = f"litelike+aiosqlite:///{tmp_path / 'app.db'}"
    project = alembic_projects.project(tmp_path / "app", "cookbook_async", url)
    report = await Migrator(Target(url, project.config), mode="migrate").run()
    assert report.outcome == "migrated"
    assert alembic_projects.heads(f"sqlite:///{tmp_path / 'app.db'}") == {"r3"}
    assert (await Migrator(Target(url, project.config), mode="migrate").run()).outcome == "current"


def refused(tmp_path: Path) -> str:
    with pytest.raises(ConfigurationError) as info:
        Migrator(Target("litelike+aiosqlite:///app.db", tmp_path))
    return str(info.value)


def test_a_dialect_that_nobody_knows_names_those_there_are(
    tmp_path: Path, install: Install
) -> None:
    install("LiteLike")
    with pytest.raises(ConfigurationError) as info:
        Migrator(Target("mysql+pymysql://localhost/app", tmp_path))
    assert "no backend for the dialect 'mysql'" in str(info.value)
    assert "Installed: litelike, postgresql, sqlite" in str(info.value)
    assert "am_litelike" not in sys.modules


def test_one_that_cannot_be_imported_is_blamed(tmp_path: Path, install: Install) -> None:
    install("LiteLike", source="raise RuntimeError('postgresql://me:hidden@host/db')")
    told = refused(tmp_path)
    assert "backend for the dialect 'litelike' of litelike0 1.0 cannot be imported" in told
    assert "nothing was changed" in told and "hidden" not in told


def test_one_that_ends_the_process_is_blamed(tmp_path: Path, install: Install) -> None:
    install("LiteLike", source="raise SystemExit(3)")
    assert "of litelike0 1.0 cannot be imported: SystemExit: 3" in refused(tmp_path)


def test_one_that_raises_is_blamed(tmp_path: Path, install: Install) -> None:
    source = SOURCE.read_text("utf-8").replace("super().__init__(access)", "raise KeyError('no')")
    install("LiteLike", source=source)
    assert "of litelike0 1.0 cannot be used: KeyError: 'no'" in refused(tmp_path)


def test_one_that_is_no_class_is_blamed(tmp_path: Path, install: Install) -> None:
    install("TEXT", source=SOURCE.read_text("utf-8") + "\nTEXT = 'no'\n")
    assert "its entry point am_litelike:TEXT is a str" in refused(tmp_path)


def test_two_for_one_dialect_are_refused(tmp_path: Path, install: Install) -> None:
    install("LiteLike", "LiteLike")
    with pytest.raises(PluginError, match="litelike0 1.0 and litelike1 1.0; uninstall all but one"):
        Migrator(Target("litelike+aiosqlite:///app.db", tmp_path))


def test_installed_backends_are_not_imported_for_a_database_of_ours(
    tmp_path: Path, install: Install
) -> None:
    install("LiteLike", source="raise RuntimeError('imported')")
    Migrator(Target(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}", tmp_path))
