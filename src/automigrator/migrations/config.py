"""From a target to the `alembic.config.Config` its env.py is given."""

from __future__ import annotations

import codecs
import copy
import os
import tomllib
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, make_url

from automigrator.errors import ConfigurationError
from automigrator.migrations.static.layout import ini_and_toml
from automigrator.support import urls
from automigrator.target import DEFAULT_SECTION, Target


def alembic_config(
    target: Target,
    url: URL,
    attributes: dict[str, Any] | None = None,
    *,
    down_to: str | None = None,
) -> Config:
    """A new Config pointing at `url`; the target's own Config object is never changed.

    `down_to`: the revision to downgrade to; None to upgrade.
    """
    config = _read(target)
    config.attributes.update({**(attributes or {}), **target.attributes})
    config.cmd_opts = _options(target, config, down_to)
    location = config.get_alembic_option("script_location")
    if location is None:
        raise ConfigurationError(
            f"{_described(target)} has no script_location in section "
            f"[{config.config_ini_section}]; "
            "name the section that has it with section=, or pass the script directory itself"
        )
    _anchor(config, location)
    _point(config, target, url)
    return config


def _options(target: Target, config: Config, down_to: str | None) -> Namespace | None:
    """What the command line was given: a Config's own, else that of `alembic upgrade`.

    To go down, that of `alembic downgrade`.
    """
    x = list(target.x) or None
    if isinstance(target.config, Config):
        given = config.cmd_opts
        return given if x is None else Namespace(**{**vars(given or Namespace()), "x": x})
    act = command.upgrade if down_to is None else command.downgrade
    return Namespace(
        config=[str(target.config)],
        name=target.section,
        x=x,
        raiseerr=False,
        quiet=False,
        sql=False,
        tag=None,
        revision=target.revision if down_to is None else down_to,
        cmd=(act, ["revision"], ["sql", "tag"]),
    )


def url_named(target: Target, backend: str) -> URL | None:
    """The configuration's own URL, where that is for such a database."""
    config = _read(target)
    names = (config.get_main_option("databases") or "").split(",")
    for section in (config.config_ini_section, *filter(None, map(str.strip, names))):
        with suppress(Exception):  # a placeholder, or what only env.py can read
            url = make_url(config.get_section(section, {})["sqlalchemy.url"])
            if url.get_backend_name() == backend:
                return url
    return None


def _point(config: Config, target: Target, url: URL) -> None:
    """Set the URL where Alembic's templates read it, the multidb one included."""
    # ConfigParser interpolates: a literal % is written twice
    text = url.render_as_string(hide_password=False).replace("%", "%%")
    config.set_main_option("sqlalchemy.url", text)
    names = [n.strip() for n in (config.get_main_option("databases") or "").split(",") if n.strip()]
    if not names:
        return
    chosen = target.name if target.name in names else _section_of(config, names, url)
    if chosen is None:
        raise ConfigurationError(
            f"{_described(target)} serves several databases ({', '.join(names)}) and none of their "
            f"URLs is the target's; say which one it is with Target(..., name={names[0]!r})"
        )
    config.set_main_option("databases", chosen)
    config.set_section_option(chosen, "sqlalchemy.url", text)


def _section_of(config: Config, names: list[str], url: URL) -> str | None:
    for name in names:
        theirs = config.get_section(name, {}).get("sqlalchemy.url")
        if theirs is not None and _place(urls.parse(theirs)) == _place(url):
            return name
    return None


def _place(url: URL) -> tuple[Any, ...]:
    return (url.get_backend_name(), url.host, url.port, url.database)


def _read(target: Target) -> Config:
    source = target.config
    if isinstance(source, Config):
        config = copy.copy(source)
        for name in ("attributes", "config_args", "toml_args"):
            vars(config)[name] = copy.copy(getattr(source, name))
        if "file_config" in vars(source):
            vars(config)["file_config"] = copy.deepcopy(source.file_config)
        if target.section != DEFAULT_SECTION:
            config.config_ini_section = target.section
        return config
    if not isinstance(source, str | os.PathLike):
        raise ConfigurationError(
            f"config is a {type(source).__name__}; it takes an alembic.config.Config, or the path "
            "of an alembic.ini, of a pyproject.toml or of the script directory"
        )
    path = Path(source)
    if path.is_dir():
        config = Config(ini_section=target.section)
        config.set_main_option("script_location", _literal(path.absolute()))
        config.set_main_option("path_separator", "os")
        return config
    ini, toml = ini_and_toml(path)
    for file in (ini, toml):
        if file.exists() and file.read_bytes().startswith(codecs.BOM_UTF8):
            raise ConfigurationError(
                f"{file} begins with a byte-order mark, with which Alembic cannot read it; "
                "save it as UTF-8 without one"
            )
    return Config(
        ini if ini is path or ini.exists() else None,
        toml_file=toml if toml is path or _has_table(toml) else None,
        ini_section=target.section,
    )


def _has_table(pyproject: Path) -> bool:
    try:
        return "alembic" in tomllib.loads(pyproject.read_text("utf-8")).get("tool", {})
    except (OSError, tomllib.TOMLDecodeError):
        return False


def _anchor(config: Config, location: str) -> None:
    """Let relative paths be found from the ini's folder, where they are not from the cwd.

    A `script_location` that is found tells which of the two the others are relative to.
    """
    file = config.config_file_name or config.toml_file_name
    if file is None:
        return
    folder = Path(file).absolute().parent
    here: bool | None = None
    """Whether relative paths are relative to the cwd; None where nothing tells."""
    if _is_relative(location):
        here = Path(location).exists()
        if not here and (folder / location).exists():
            config.set_main_option("script_location", _literal(folder / location))
    given = {
        "version_locations": config.get_version_locations_list() or [],
        "prepend_sys_path": config.get_prepend_sys_paths_list() or [],
    }
    anchored = {
        "version_locations": [_found(each, folder, here) for each in given["version_locations"]],
        "prepend_sys_path": [
            each for path in given["prepend_sys_path"] for each in _both(path, folder, here)
        ],
    }
    if anchored == given:
        return
    config.set_main_option("path_separator", "newline")
    for name, paths in anchored.items():
        if paths:
            config.set_main_option(name, "\n".join(map(_literal, paths)))


def _found(location: str, folder: Path, here: bool | None) -> str:
    """A folder of revisions: from the cwd, else from the ini's folder."""
    beside = folder / location
    if not _is_relative(location) or here or not beside.exists():
        return location
    return location if here is None and Path(location).exists() else str(beside)


def _both(path: str, folder: Path, here: bool | None) -> list[str]:
    """An entry of `sys.path`: where nothing tells, the ini's folder comes after the cwd."""
    if not _is_relative(path) or here or _same(Path(), folder):
        return [path]
    return [path, str(folder / path)] if here is None else [str(folder / path)]


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # a process may be where it may not look
        return False


def _is_relative(location: str) -> bool:
    return ":" not in location and not os.path.isabs(location)


def _literal(path: str | Path) -> str:
    """A path as ConfigParser takes it, which interpolates."""
    return str(path).replace("%", "%%")


def _described(target: Target) -> str:
    if isinstance(target.config, Config):
        return target.config.config_file_name or "the Config"
    return str(target.config)
