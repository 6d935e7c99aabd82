"""From a target to the `alembic.config.Config` its env.py is given."""

from __future__ import annotations

import copy
import os
import tomllib
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from alembic.config import Config
from sqlalchemy import URL, make_url

from automigrator.errors import ConfigurationError
from automigrator.migrations.static.layout import ini_and_toml
from automigrator.support import urls
from automigrator.target import Target


def alembic_config(target: Target, url: URL, attributes: dict[str, Any] | None = None) -> Config:
    """A new Config pointing at `url`; the target's own Config object is never changed."""
    config = _read(target)
    config.config_ini_section = target.section
    config.attributes.update({**(attributes or {}), **target.attributes})
    options = vars(config.cmd_opts) if config.cmd_opts else {}
    config.cmd_opts = Namespace(**{**options, "x": list(target.x) or None, "quiet": True})
    location = config.get_alembic_option("script_location")
    if location is None:
        raise ConfigurationError(
            f"{_described(target)} has no script_location in section [{target.section}]; "
            "name the section that has it with section=, or pass the script directory itself"
        )
    _anchor(config, location)
    _point(config, target, url)
    return config


def url_named(target: Target, backend: str) -> URL | None:
    """The configuration's own URL, where that is for such a database."""
    config = _read(target)
    config.config_ini_section = target.section
    names = (config.get_main_option("databases") or "").split(",")
    for section in (target.section, *filter(None, map(str.strip, names))):
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
            vars(config)[name] = dict(getattr(source, name))
        if "file_config" in vars(source):
            vars(config)["file_config"] = copy.deepcopy(source.file_config)
        return config
    if not isinstance(source, str | os.PathLike):
        raise ConfigurationError(
            f"config is a {type(source).__name__}; it takes an alembic.config.Config, or the path "
            "of an alembic.ini, of a pyproject.toml or of the script directory"
        )
    path = Path(source)
    if path.is_dir():
        config = Config(ini_section=target.section)
        config.set_main_option("script_location", str(path.absolute()))
        config.set_main_option("path_separator", "os")
        return config
    ini, toml = ini_and_toml(path)
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
    """Let a relative script_location be found from the ini's folder when not from the cwd."""
    file = config.config_file_name or config.toml_file_name
    if file is None or ":" in location or Path(location).exists():
        return
    beside = Path(file).absolute().parent / location
    if beside.exists():
        config.set_main_option("script_location", str(beside).replace("%", "%%"))


def _described(target: Target) -> str:
    if isinstance(target.config, Config):
        return target.config.config_file_name or "the Config"
    return str(target.config)
