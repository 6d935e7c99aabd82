"""Histories that many targets have in common: read once, and again when a file changes."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import URL

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.errors import RevisionImportError
from automigrator.migrations import alembic_private
from automigrator.migrations.config import alembic_config, url_named
from automigrator.migrations.execution import Configured
from automigrator.migrations.history import History, Stamp, stamp
from automigrator.migrations.isolation import alone_in_thread
from automigrator.migrations.runs.process import guarded_path
from automigrator.migrations.static.heads import Signature, files
from automigrator.migrations.static.layout import ini_and_toml
from automigrator.migrations.ways import Offer, Way, ways
from automigrator.support.concurrency import in_thread
from automigrator.target import Target

_FEW_FILES = 300

Key = tuple[str, str]
"""The configuration's file or folder, and its section."""


class Like(NamedTuple):
    """What env.py configured for one target, and is to configure for another one."""

    table: VersionTable
    driver: str
    one_transaction: bool
    open_before: bool

    def of(self, context: Configured) -> Configured:
        """What is known of the other one, with this."""
        return replace(
            context,
            driver=self.driver,
            one_transaction=self.one_transaction,
            open_before=self.open_before,
        )


class _Found(NamedTuple):
    """The way that env.py was found to take for one target."""

    ours: bool
    offer: Offer
    drivername: str
    names_schema: bool
    """Whether the schema of the version table is what the target says; else the usual one."""
    like: Like


class CommonHistory:
    """A history, and what env.py was found to do with it."""

    def __init__(self, history: History, target: Target) -> None:
        self.history = history
        self._config = _files_of(target)
        self._before = self._stamps()
        self._environment = history.environment
        self._named: dict[str, URL | None] = {}
        self._found: dict[Hashable, _Found] = {}

    @property
    def files(self) -> int:
        """The number of files that it was read from."""
        return len(self._before[1]) + len(self.history.imported)

    @property
    def is_current(self) -> bool:
        """Whether every file that it was read from is as it was by then."""
        imported = [*self.history.imported.items()]
        try:
            same = self._stamps() == self._before
        except OSError:
            return False
        return same and all(stamp(module) == before for module, before in imported)

    def _stamps(self) -> tuple[list[Stamp], Signature]:
        script = self.history.script
        folders = map(Path, alembic_private.version_locations(script))
        revisions = files(folders, recursive=script.recursive_version_locations)
        return [*map(stamp, (*self._config, Path(script.env_py_location)))], revisions

    def note(self, target: Target, backend: Backend, way: Way, context: Configured) -> None:
        """Note the way that a probe has found, for the next target."""
        table = context.table
        if table.name != (target.version_table or VersionTable().name):
            return
        if table.schema not in (None, target.version_table_schema):
            return
        like = Like(table, context.driver, context.one_transaction, context.open_before)
        how = way.ours, way.offer, way.url.drivername
        self._found[_alike(target, backend)] = _Found(*how, table.schema is not None, like)

    def way(self, target: Target, backend: Backend, place: Place) -> tuple[Way, Like] | None:
        """The way that was found for a target like this one, and what it is to configure here.

        Nobody has asked env.py yet whether it does.
        """
        found = self._found.get(_alike(target, backend))
        if found is None:
            return None
        if backend.name not in self._named:
            self._named[backend.name] = url_named(target, backend.name)
        named = self._named[backend.name]
        for way in ways(target, backend, place, self._environment, named):
            same = (way.ours, way.offer, way.url.drivername) == found[:3]
            if same and way.refusal is None:
                schema = target.version_table_schema if found.names_schema else None
                table = VersionTable(found.like.table.name, schema)
                return way, found.like._replace(table=table)
        return None


class CommonHistories:
    """The histories of many targets, by their configuration."""

    def __init__(self) -> None:
        self._read: dict[Key, CommonHistory] = {}

    async def of(self, target: Target, backend: Backend) -> CommonHistory | None:
        """Return a target's history, read where no file says that it is known; None for its own.

        A history is a target's own where a Config says it, where it lies in a package, is there
        without its source, or needs env.py to be read, and where the configuration serves several
        databases. Raises HistoryError, ConfigurationError, and JudgedError as reading by itself
        does.
        """
        if not isinstance(target.config, str | os.PathLike):
            return None
        key = _key(target.config, target.section)
        known = self._read.get(key)
        if known is not None:
            # a thread costs more than a few dozen stats
            if known.files <= _FEW_FILES and known.is_current:
                return known
            if known.files > _FEW_FILES and await in_thread(lambda: known.is_current):
                return known
        self._read.pop(key, None)
        try:
            read = await alone_in_thread(target, lambda: _read(target, backend))
        except (RevisionImportError, OSError):
            return None
        if read is not None:
            self._read[key] = read
        return read


def _read(target: Target, backend: Backend) -> CommonHistory | None:
    config = alembic_config(target, backend.access.url)
    if config.get_main_option("databases"):
        return None
    with guarded_path():
        history = History(config, read=False)
        if history.script.sourceless or not history.proof.folders:
            return None
        found = CommonHistory(history, target)  # before it is read: a change is noticed then
        history.adopt(history.script)
    return found


def _key(config: str | os.PathLike[str], section: str) -> Key:
    return os.path.abspath(config), section


def _files_of(target: Target) -> tuple[Path, ...]:
    assert isinstance(target.config, str | os.PathLike)
    path = Path(target.config)
    return () if path.is_dir() else ini_and_toml(path)


def _alike(target: Target, backend: Backend) -> Hashable:
    """Equal for targets whose env.py is most likely to take the same way."""
    return (
        backend.name,
        backend.in_place,
        backend.access.url.drivername,
        backend.access.driver,
        target.drive,
        target.version_table,
        target.version_table_schema is None,
        target.revision,
        tuple(sorted(map(str, target.attributes))),
        tuple(each.partition("=")[0] for each in target.x),
    )
