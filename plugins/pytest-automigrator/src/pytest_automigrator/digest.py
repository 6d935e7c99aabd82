"""A digest of all that a migrated database comes from: it names the template."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from automigrator.migrations.static.imports import imported
from automigrator.migrations.static.layout import layout_of
from pytest_automigrator.application import Application

FORM = "1"
"""Changes where the same files would give another database than before."""

_VERSIONS = ("automigrator", "alembic", "SQLAlchemy", "aiosqlite", "asyncpg", "psycopg", "psycopg2")


def digest(application: Application, kind: str) -> str:
    """32 hexadecimal digits for what a database of this kind is made of.

    Counted are all files in the folders of env.py and of the revisions, the configuration, the
    modules of the application that they import, `automigrator_depends`, the target's options, and
    the versions of what runs them. What a revision reads from the environment is not.
    """
    hashed = hashlib.blake2b(digest_size=16)
    texts = {str(path): _content(path) for path in _files(application)}
    roots = [str(application.settings.root), str(application.settings.root / "src")]
    for name, content in {**texts, **(imported(texts, roots) if texts else {})}.items():
        relative = os.path.relpath(name, application.settings.root) if name in texts else name
        for part in (relative.encode(), content):
            hashed.update(len(part).to_bytes(8))
            hashed.update(part)
    for each in (FORM, kind, sys.version, sqlite3.sqlite_version, *_options(application)):
        hashed.update(f"{each}\0".encode())
    for name in _VERSIONS:
        hashed.update(f"{name} {_version(name)}\0".encode())
    return hashed.hexdigest()


def _files(application: Application) -> Iterator[Path]:
    """Every file that counts, in an order that stays, env.py's folder first."""
    settings, target = application.settings, application.target
    layout = layout_of(target)
    folders = [layout.script, *layout.versions] if layout else _asked(application)
    seen: set[Path] = set()
    for folder in folders:
        for place, inside, names in os.walk(folder):
            inside[:] = [each for each in inside if _is_seen(Path(place, each))]
            seen.update(path for name in names if _is_seen(path := Path(place, name)))
    if isinstance(target.config, str | os.PathLike) and Path(target.config).is_file():
        config = Path(target.config)
        both = map(config.with_name, ("alembic.ini", "pyproject.toml"))
        seen.update(path for path in (config, *both) if path.is_file())
    for pattern in settings.depends:
        seen.update(path for path in settings.root.glob(pattern) if path.is_file())
    # the first of them tells whose the application's modules are
    first = layout.environment if layout else None
    yield from sorted(seen, key=lambda path: (path != first, path))


def _is_seen(path: Path) -> bool:
    """Whether it may count: no cache, no editor's file, and no environment of Python's."""
    if path.name.startswith(".") or path.name == "__pycache__":
        return False
    return path.is_file() or (path.is_dir() and not (path / "pyvenv.cfg").exists())


def _asked(application: Application) -> list[Path]:
    """The folders of the revisions where only Alembic knows them."""
    folders = dict.fromkeys(Path(each).parent for each in application.paths().values())
    return [*folders, *(each.parent for each in folders if (each.parent / "env.py").is_file())]


def _options(application: Application) -> Iterator[str]:
    target = application.target
    names = ("revision", "section", "x", "version_table", "version_table_schema", "baseline")
    yield from (f"{name}={getattr(target, name)!r}" for name in names)
    yield f"bootstrap={getattr(target.bootstrap, '__qualname__', '')}"
    yield f"attributes={sorted(target.attributes)}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
