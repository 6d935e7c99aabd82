"""Where a target's revision files and env.py are, by its configuration's text; None if unsure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automigrator.frozen import Frozen
from automigrator.migrations.static.ini import options_of

if TYPE_CHECKING:
    from automigrator.target import Target

_SEPARATORS = {"space": " ", "newline": "\n", "os": os.pathsep, ":": ":", ";": ";"}


class Proof(Frozen):
    """What the syntax of an env.py proves; see `proof`."""

    table: bool = False
    """It migrates once, with Alembic's default version table."""
    folders: bool = False
    """It leaves the folders of the revisions where the options say."""
    once: bool = False
    """It migrates once, with whichever version table."""


class Layout(Frozen):
    """Where the files of a history are."""

    script: Path
    """The folder of env.py."""
    versions: tuple[Path, ...]
    """The folders of the revision files."""
    recursive: bool = False
    """Whether those within them count, too."""

    @property
    def environment(self) -> Path:
        return self.script / "env.py"


def layout_of(target: Target) -> Layout | None:
    """None for what only Alembic can resolve: a Config, a folder in a package, sourceless."""
    if not isinstance(target.config, str | os.PathLike):
        return None
    path = Path(target.config)
    if path.is_dir():
        return Layout(path.absolute(), (path.absolute() / "versions",))
    try:
        return _laid_out(_Options(path, target.section), path)
    except Exception:  # noqa: BLE001 - met again by Alembic, which tells it
        return None


def ini_and_toml(path: Path) -> tuple[Path, Path]:
    """The two files that options may be in, where `path` is one of them."""
    if path.suffix == ".toml":
        return path.with_name("alembic.ini"), path
    return path, path.with_name("pyproject.toml")


class _Options:
    """An ini's section first, then `[tool.alembic]`, as Alembic looks options up."""

    def __init__(self, path: Path, section: str) -> None:
        ini, toml = ini_and_toml(path)
        self.ini = options_of(ini, section)
        self.toml: dict[str, Any] = {}
        if toml.exists():
            import tomllib  # local: most projects have none

            self.toml = tomllib.loads(toml.read_text("utf-8")).get("tool", {}).get("alembic", {})
        self.here = {"here": toml.absolute().parent.as_posix()}

    def get(self, name: str) -> Any:
        if name in self.ini:
            return self.ini[name]
        value = self.toml.get(name)
        if isinstance(value, list):
            return [each % self.here for each in value]
        return value % self.here if isinstance(value, str) else value


def _laid_out(options: _Options, path: Path) -> Layout | None:
    location = options.get("script_location")
    if not isinstance(location, str) or _in_package(location):
        return None
    if options.get("sourceless") not in (None, False, "false"):
        return None
    script = Path(location)
    found = script.exists()
    if not found:
        script = path.absolute().parent / location
    versions = _versions(options, found=found)
    if versions is None:
        return None
    return Layout(
        script.absolute(),
        versions or (script.absolute() / "versions",),
        recursive=options.get("recursive_version_locations") in (True, "true"),
    )


def _versions(options: _Options, *, found: bool) -> tuple[Path, ...] | None:
    value = options.get("version_locations")
    if not value:
        return ()
    if isinstance(value, str):
        separator = options.get("path_separator") or options.get("version_path_separator")
        if separator is None:
            return None
        value = [each.strip() for each in value.split(_SEPARATORS[separator]) if each]
    if any(_in_package(each) for each in value):
        return None
    folders = [Path(each) for each in value]
    if any(not each.is_absolute() and not (found and each.exists()) for each in folders):
        return None  # it may be relative to the ini's folder
    return tuple(each.absolute() for each in folders)


def _in_package(location: str) -> bool:
    return not os.path.isabs(location) and ":" in location
