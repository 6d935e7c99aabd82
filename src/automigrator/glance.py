"""Step 2 of a run: whether there is nothing to do, by one SELECT and the files' text."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from automigrator.course import Course
from automigrator.target import Target
from automigrator.threads import in_thread

if TYPE_CHECKING:
    from automigrator.static.configuration import Layout
    from automigrator.static.graph import Heads, Signature

_LAYOUTS: dict[tuple[object, ...], Layout | None] = {}
_CACHED: dict[Layout, tuple[Signature, Heads | None]] = {}
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
        wanted = await in_thread(lambda: _wanted(ground.target))
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
    # local: a process that only skips never needs it
    from automigrator.static.configuration import plain_environment

    layout = _layout(target)
    if layout is None:
        return None
    environment, heads = _read(layout)
    if heads is None or (target.version_table is None and not plain_environment(environment)):
        return None
    if target.revision == "heads" or (target.revision == "head" and len(heads.heads) == 1):
        return heads.rows
    return frozenset({target.revision}) if target.revision in heads.known else None


def _layout(target: Target) -> Layout | None:
    from automigrator.static.configuration import layout_of

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


def _read(layout: Layout) -> tuple[str, Heads | None]:
    from automigrator.static.cache import recall, remember
    from automigrator.static.graph import files, heads_of

    signature = files(layout.versions, recursive=layout.recursive)
    text = layout.environment.read_text("utf-8")
    known = _CACHED.get(layout)
    if known is not None and known[0] == signature:
        return text, known[1]
    found, heads = recall(layout, signature)
    if not found:
        heads = heads_of(signature)
        remember(layout, signature, heads)
    with _caching:
        if len(_CACHED) >= _MOST_CACHED:
            _CACHED.clear()
        _CACHED[layout] = (signature, heads)
    return text, heads
