"""Where the command's Migrator comes from: options, the environment, a pyproject.toml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from sqlalchemy import URL

from automigrator.cli.options import Options
from automigrator.cli.trusted_files import ensure_trusted, read_secret, tables
from automigrator.errors import ConfigurationError
from automigrator.frozen import Frozen
from automigrator.support import urls

COPY_VARIABLE = "AUTOMIGRATOR_COPY_URL"
APP, URL_VARIABLE, COMMON_VARIABLE = "AUTOMIGRATOR_APP", "AUTOMIGRATOR_URL", "DATABASE_URL"
FLEET = "AUTOMIGRATOR_FLEET"

_KEYS = ("app", "fleet", "url", "url_env", "url_file", "config", "name")

NO_FLEET = (
    "there is no fleet to ask; nothing was done. Name the application's own with "
    f"--app package.module:fleet, {FLEET}, or fleet = in [tool.automigrator] of pyproject.toml"
)

NOTHING = (
    "there is no migrator to ask; nothing was done. Name the application's own with "
    f"--app package.module:migrator, {APP} or [tool.automigrator] in pyproject.toml; or one "
    f"database with --url and --config, or {URL_VARIABLE} or {COMMON_VARIABLE} beside an "
    "alembic.ini"
)

_INSTEAD = (
    f"{URL_VARIABLE}, or into a file of mode 0600 that --url-file names, or leave the password "
    "out and add --ask-password"
)

PASSWORD = (
    "{} holds a password, which {}; it was not used, and nothing was done. Put the URL into {}"
)


class Source(Frozen):
    """One migrator, described; nothing of it was imported or opened yet."""

    origin: str
    """Where the description comes from, for a person."""
    app: str | None = None
    """`module:name` of the application's own; None for a database and its configuration."""
    folder: Path = Path()
    """Where `app` is imported from, and models are."""
    url: URL | None = None
    asks_password: bool = False
    """Whether a person is asked for the URL's password."""
    config: Path | None = None
    name: str = ""
    always_told: bool = False
    """Whether a person is told the origin without asking: nothing on the command line names it."""


class Found(Frozen):
    """The migrator that was found, and the files that were ignored on the way."""

    source: Source
    ignored: tuple[str, ...] = ()


def found(options: Options, environment: Mapping[str, str], here: Path) -> Found:
    """Describe the migrator that the command is about.

    The command line comes before the environment's `AUTOMIGRATOR_APP`, that before the nearest
    pyproject.toml, and that before a URL in the environment. Raises ConfigurationError, and
    click's UsageError.
    """
    one = {"--url": options.url, "--url-file": options.url_file}
    named = [name for name, value in one.items() if value is not None]
    if options.app is not None:
        if named:
            raise click.UsageError(
                f"--app names a Migrator with targets of its own: drop {named[0]}"
            )
        return Found(_application(options.app, "--app", options, here))
    if len(named) > 1:
        raise click.UsageError("--url and --url-file name the same thing: drop one")
    if named:
        url = _of_argument(options.url) if options.url else _of_file(options.url_file)
        return Found(_database(url, options, here, named[0]))
    if app := environment.get(APP):
        source = _application(app, APP, options, here)
        return Found(source._replace(always_told=True))
    ignored: list[str] = []
    for path, table in tables(here, ignored):
        return Found(_of_table(path, table, options, environment), tuple(ignored))
    for variable in (URL_VARIABLE, COMMON_VARIABLE):
        if text := environment.get(variable):
            source = _database(_parsed(text, variable), options, here, variable)
            return Found(source._replace(always_told=True), tuple(ignored))
    if ignored:
        raise ConfigurationError(f"{NOTHING}. {'; '.join(ignored)}")
    raise ConfigurationError(NOTHING)


def found_fleet(options: Options, environment: Mapping[str, str], here: Path) -> Found:
    """Describe the fleet that the command is about; as `found`, for an application's own alone."""
    of_one = {
        "--url": options.url,
        "--url-file": options.url_file,
        "--target": options.target,
        "-x": options.x,
    }
    if wrong := next((name for name, value in of_one.items() if value), None):
        raise click.UsageError(f"a fleet has tenants of its own: drop {wrong}")
    if options.app is not None:
        return Found(_application(options.app, "--app", options, here))
    if app := environment.get(FLEET):
        return Found(_application(app, FLEET, options, here)._replace(always_told=True))
    ignored: list[str] = []
    for path, table in tables(here, ignored):
        if isinstance(table, dict) and isinstance(table.get("fleet"), str):
            origin = f"[tool.automigrator] in {path}"
            source = _application(table["fleet"], origin, options, path.parent)
            return Found(source._replace(always_told=True), tuple(ignored))
        break
    raise ConfigurationError(". ".join([NO_FLEET, *(["; ".join(ignored)] if ignored else [])]))


def _application(app: str, origin: str, options: Options, folder: Path) -> Source:
    of_a_url = {
        "--config": options.config,
        "--name": options.name,
        "--ask-password": options.ask_password,
    }
    if wrong := next((name for name, value in of_a_url.items() if value), None):
        raise click.UsageError(f"{origin} names a Migrator with targets of its own: drop {wrong}")
    module, _, name = app.partition(":")
    if not module or not name:
        raise ConfigurationError(
            f"{origin} is {app!r}, and should be package.module:migrator, a module that can be "
            "imported and the name of the Migrator, or Fleet, in it"
        )
    return Source(origin, app=app, folder=(options.app_dir or folder).absolute())


def _database(url: URL, options: Options, here: Path, origin: str) -> Source:
    config = options.config
    return Source(
        origin,
        folder=(options.app_dir or here).absolute(),
        url=url,
        asks_password=options.ask_password,
        config=config if config is not None else _configuration_in(here),
        name=options.name or "",
    )


def _configuration_in(folder: Path) -> Path:
    """The alembic.ini of a folder, or its pyproject.toml. Raises ConfigurationError."""
    for name in ("alembic.ini", "pyproject.toml"):
        if (path := folder / name).is_file():
            ensure_trusted(path)
            return path
    raise ConfigurationError(
        f"there is no alembic.ini in {folder}, and no pyproject.toml; nothing was done. Name the "
        "Alembic configuration with --config"
    )


def _of_table(path: Path, table: Any, options: Options, environment: Mapping[str, str]) -> Source:
    origin = f"[tool.automigrator] in {path}"
    if not isinstance(table, dict) or not all(isinstance(each, str) for each in table.values()):
        raise ConfigurationError(f"{origin} should hold texts: {', '.join(_KEYS)}")
    if unknown := sorted(set(table) - set(_KEYS)):
        raise ConfigurationError(
            f"{origin} has no key {unknown[0]!r}: its keys are {', '.join(_KEYS)}"
        )
    ways = [key for key in ("app", "url", "url_env", "url_file") if key in table]
    if len(ways) != 1:
        given = " and ".join(ways) or "none"
        raise ConfigurationError(
            f"{origin} should have one of app, url, url_env and url_file, and has {given}"
        )
    folder = path.parent
    if "app" in table:
        source = _application(table["app"], origin, options, folder)
        return source._replace(always_told=True)
    if options.config is None:
        options.config = folder / table.get("config", "alembic.ini")
    options.name = options.name or table.get("name")
    source = _database(_url_of(table, folder, environment, origin), options, folder, origin)
    return source._replace(always_told=True)


def _url_of(
    table: Mapping[str, str], folder: Path, environment: Mapping[str, str], origin: str
) -> URL:
    if "url_file" in table:
        return _of_file(folder / table["url_file"])
    if "url_env" in table:
        variable = table["url_env"]
        if not environment.get(variable):
            raise ConfigurationError(
                f"{origin} says url_env = {variable!r}, and {variable} is not set; nothing was "
                "done. Set it to the database's URL"
            )
        return _parsed(environment[variable], variable)
    url = _parsed(table["url"], f"url in {origin}")
    _ensure_open(url, f"url in {origin}", "is read by all who read the repository")
    return _beside(url, folder)


def _beside(url: URL, folder: Path) -> URL:
    """A relative SQLite file belongs to the folder of the file that names it."""
    database = url.database
    if url.get_backend_name() != "sqlite" or not database or database.startswith((":", "file:")):
        return url
    return url.set(database=os.path.join(folder, database))


def copy_of(text: str | None, file: Path | None, environment: Mapping[str, str]) -> URL:
    """The URL of the copy that a rehearsal is to change. Raises ConfigurationError, UsageError."""
    if text and file:
        raise click.UsageError("--on and --on-file name the same thing: drop one")
    if text:
        return _of_argument(
            text, "--on", f"{COPY_VARIABLE}, or into a file of mode 0600 that --on-file names"
        )
    if file:
        return _of_file(file)
    if named := environment.get(COPY_VARIABLE):
        return _parsed(named, COPY_VARIABLE)
    raise click.UsageError(
        f"name the copy that the revisions are to change: --on URL, --on-file FILE or "
        f"{COPY_VARIABLE}; nothing was done"
    )


def _of_argument(text: str, option: str = "--url", instead: str = _INSTEAD) -> URL:
    url = _parsed(text, option)
    why = "every user of this machine can see in the list of processes"
    _ensure_open(url, option, why, instead)
    return url


def _ensure_open(url: URL, what: str, why: str, instead: str = _INSTEAD) -> None:
    if any(urls.secrets_of(url)):
        raise ConfigurationError(PASSWORD.format(what, why, instead))


def _of_file(path: Path | None) -> URL:
    assert path is not None
    return _parsed(read_secret(path), str(path))


def _parsed(text: str, where: str) -> URL:
    try:
        return urls.parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
