"""Step 2 of a run: whether there is nothing to do, by one SELECT and the files' text."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from automigrator.migrations.static.cache import recall, remember
from automigrator.migrations.static.heads import Heads, Signature, files, heads_of
from automigrator.migrations.static.layout import Layout, layout_of, plain_environment
from automigrator.runner.state import Course
from automigrator.support.concurrency import in_thread
from automigrator.target import Target

_LAYOUTS: dict[tuple[object, ...], Layout | None] = {}

_CACHED: dict[Layout, tuple[Signature, Heads | None]] = {}

_COUNTS: dict[tuple[str, str], int] = {}

"""How many files a configuration's folders had when they were last read."""

_BRIEF = 300

_MOST_CACHED = 64

_caching = threading.Lock()


async def nothing_to_do(course: Course) -> bool:
    """Whether the database is at its heads beyond doubt; no is no verdict, only a reason to look.

    Takes no lock, imports no Alembic, loads no plugin. An error is left for the steps that can
    answer it.
    """
    ground, run = course.ground, course.run
    backend = ground.backend
    try:
        target = ground.target
        # to hand a few dozen stats to a thread costs more than they do
        brief = 0 < _COUNTS.get(_named(target), 0) <= _BRIEF
        wanted = _wanted(target) if brief else await in_thread(lambda: _wanted(target))
        if wanted is None:
            return False
        heads = await backend.glimpse(ground.table)
        if heads is None:
            heads = (await backend.look([ground.table])).heads.get(ground.table)
    except Exception:  # noqa: BLE001 - met again by the steps that follow
        return False
    if backend.unfinished():  # asked last: a server tells of it in the same look
        return False
    if not heads or frozenset(heads) != wanted:
        return False
    run.before = run.wanted = course.after = heads
    return True


def _wanted(target: Target) -> frozenset[str] | None:
    """The version rows of a database that lacks nothing; None where the text does not say."""
    layout = _layout(target)
    if layout is None:
        return None
    environment, heads, count = _read(layout)
    with _caching:
        if len(_COUNTS) >= _MOST_CACHED:
            _COUNTS.clear()
        _COUNTS[_named(target)] = count
    if heads is None or (target.version_table is None and not plain_environment(environment)):
        return None
    if target.revision == "heads" or (target.revision == "head" and len(heads.heads) == 1):
        return heads.rows
    return frozenset({target.revision}) if target.revision in heads.known else None


def _named(target: Target) -> tuple[str, str]:
    return str(target.config), target.section


def _layout(target: Target) -> Layout | None:
    if not isinstance(target.config, str | os.PathLike):
        return None
    path = Path(target.config)
    files = tuple(
        _stamp(path.with_name(name)) for name in (path.name, "alembic.ini", "pyproject.toml")
    )
    key = (path.absolute(), target.section, files)
    if key not in _LAYOUTS:
        layout = layout_of(target)
        with _caching:
            if len(_LAYOUTS) >= _MOST_CACHED:
                _LAYOUTS.clear()
            _LAYOUTS[key] = layout
    return _LAYOUTS.get(key)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _read(layout: Layout) -> tuple[str, Heads | None, int]:
    signature = files(layout.versions, recursive=layout.recursive)
    text = layout.environment.read_text("utf-8")
    known = _CACHED.get(layout)
    if known is not None and known[0] == signature:
        return text, known[1], len(signature)
    found, heads = recall(layout, signature)
    if not found:
        heads = heads_of(signature)
        remember(layout, signature, heads)
    with _caching:
        if len(_CACHED) >= _MOST_CACHED:
            _CACHED.clear()
        _CACHED[layout] = (signature, heads)
    return text, heads, len(signature)
