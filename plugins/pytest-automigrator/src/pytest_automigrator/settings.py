"""What a project's pytest configuration says, and what is taken where it says nothing."""

from __future__ import annotations

# every session of every project comes here: what it does not need is imported where it is used
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

KINDS = ("sqlite", "postgresql")
VARIABLE = "AUTOMIGRATOR_TEST_POSTGRES"

OPTIONS: dict[str, tuple[str, str]] = {
    "config": ("string", "alembic.ini, pyproject.toml or script directory; default: rootdir's"),
    "app": (
        "string",
        "package.module:migrator, the application's own; default: [tool.automigrator]'s",
    ),
    "target": ("string", "the name of the Migrator's target; default: the only one"),
    "database": (
        "string",
        "sqlite, postgresql or both; default: the app's, or that of sqlalchemy.url",
    ),
    "postgresql": ("string", f"URL of a role with CREATEDB; default: {VARIABLE}, or a server"),
    "recovery": ("args", "names of recovery strategies, where there is no automigrator_app"),
    "depends": ("args", "globs of further files that the revisions read, as sql/*.sql"),
    "lock_file": ("string", "digests of released revisions; default: alembic.lock"),
    "starts": ("string", "from how many revisions upgrades start, or all; default: 20"),
    "round_trips": ("string", "of how many of the newest revisions, or all; default: 50"),
    "lossy": ("args", "revisions whose downgrade may lose data"),
    "faults": ("args", "revisions that are made to fail: ids, heads or all; default: heads"),
}
"""The ini options by name without `automigrator_`: their type for pytest, and their help."""


@dataclass(frozen=True)
class Settings:
    """The options of a session, resolved."""

    root: Path
    config: Path | None
    """None where there is no Alembic configuration; what needs one says so."""
    app: str
    target: str | None
    databases: tuple[str, ...]
    """Empty where the application's target is to say."""
    postgresql: str
    """Empty where a server is to be started."""
    recovery: tuple[str, ...]
    depends: tuple[str, ...]
    lock_file: Path
    starts: int | None
    """None for all."""
    round_trips: int | None
    """None for all."""
    lossy: frozenset[str]
    faults: tuple[str, ...]
    driver: str
    """The drivername of `sqlalchemy.url`; empty where it has none."""


def read(config: pytest.Config) -> Settings:
    """The settings of a session, read once. Raises pytest.UsageError for a wrong value."""
    if _READ not in config.stash:
        config.stash[_READ] = _read(config)
    return config.stash[_READ]


def _read(config: pytest.Config) -> Settings:
    root = config.rootpath

    def given(name: str) -> Any:
        option = config.getoption(f"automigrator_{name}", None)
        return option if option is not None else config.getini(f"automigrator_{name}")

    table = _table(root / "pyproject.toml", "automigrator")
    app = given("app") or table.get("app", "")
    named = given("config") or table.get("config")
    file = root / named if named else _found(root)
    if file is not None and not file.exists():
        raise pytest.UsageError(f"automigrator_config: there is no {file}")
    url = _url(file) if file is not None else ""
    driver = url.partition("://")[0]
    kind = given("database") or ("" if app else kind_of(table.get("url", driver)))
    if kind not in (*KINDS, "both", ""):
        raise pytest.UsageError(
            f"automigrator_database={kind!r} is not one of {', '.join(KINDS)}, both"
        )
    return Settings(
        root=root,
        config=file,
        app=app,
        target=given("target") or None,
        databases=KINDS if kind == "both" else (kind,) if kind else (),
        postgresql=given("postgresql") or os.environ.get(VARIABLE, ""),
        recovery=tuple(given("recovery")),
        depends=tuple(given("depends")),
        lock_file=root / (given("lock_file") or "alembic.lock"),
        starts=_count("starts", given("starts") or "20"),
        round_trips=_count("round_trips", given("round_trips") or "50"),
        lossy=frozenset(given("lossy")),
        faults=tuple(given("faults")) or ("heads",),
        driver=driver,
    )


_READ = pytest.StashKey[Settings]()


def _count(name: str, text: str) -> int | None:
    if text == "all":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise pytest.UsageError(f"automigrator_{name}={text!r} is neither a number above 0 nor all")


def _found(root: Path) -> Path | None:
    """The configuration in pytest's rootdir, as Alembic would find it there."""
    if (ini := root / "alembic.ini").is_file():
        return ini
    pyproject = root / "pyproject.toml"
    return pyproject if "script_location" in _table(pyproject, "alembic") else None


def kind_of(url: str) -> str:
    """The kind of database that a URL, or its driver, names; SQLite for all others."""
    return "postgresql" if url.startswith("postgres") else "sqlite"


def _table(pyproject: Path, tool: str) -> dict[str, Any]:
    import tomllib

    try:
        tools = tomllib.loads(pyproject.read_text("utf-8")).get("tool", {})
    except (OSError, tomllib.TOMLDecodeError):
        return {}
    return dict(tools.get(tool, {}))


def _url(config: Path) -> str:
    """`sqlalchemy.url` as it is written, of which only the driver is used."""
    import configparser

    ini = config if config.suffix != ".toml" else config.with_name("alembic.ini")
    parser = configparser.RawConfigParser()
    try:
        parser.read(ini, encoding="utf-8")
        return parser.get("alembic", "sqlalchemy.url", fallback="")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return ""
