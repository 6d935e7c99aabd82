"""Step 2 of a run: whether there is nothing to do, by one SELECT and the files' text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from automigrator.migrations.static.cache import History, history_of, signature_of
from automigrator.migrations.static.layout import layout_of
from automigrator.support.concurrency import in_thread

if TYPE_CHECKING:
    from automigrator.migrations.static.heads import Signature
    from automigrator.migrations.static.layout import Layout
    from automigrator.runner.state import RunState
    from automigrator.target import Target


class _Seen(NamedTuple):
    """What this process has read of one configuration, and the state of the files by then."""

    ini: tuple[tuple[int, int] | None, ...]
    layout: Layout
    signature: Signature
    history: History


_SEEN: dict[tuple[str, str], _Seen] = {}

_MOST_SEEN = 64

_FEW_FILES = 300


async def nothing_to_do(state: RunState) -> bool:
    """Whether the database is at its heads beyond doubt; where it is not, only a look can tell.

    Takes no lock, imports no Alembic, loads no plugin. An error is left to the steps that can
    answer it.
    """
    session, run = state.session, state.run
    try:
        target = session.target
        seen = _SEEN.get(_key(target))
        # a thread costs more than a few dozen stats
        few = seen is not None and len(seen.signature) <= _FEW_FILES
        wanted = _wanted(target) if few else await in_thread(lambda: _wanted(target))
        if wanted is None:
            return False
        sight = await session.backend.look([session.table], heads_only=True)
    except Exception:  # noqa: BLE001 - met again by the steps that follow
        return False
    heads = sight.all_heads()
    if sight.unfinished or not heads or frozenset(heads) != wanted:
        return False
    run.before = run.wanted = state.after = heads
    return True


def _wanted(target: Target) -> frozenset[str] | None:
    """The version rows of a database that lacks nothing; None where the text does not say."""
    if not isinstance(target.config, str | os.PathLike):
        return None
    path = Path(target.config)
    ini = tuple(
        map(_stamp, (path, path.with_name("alembic.ini"), path.with_name("pyproject.toml")))
    )
    seen = _SEEN.get(_key(target))
    layout = seen.layout if seen is not None and seen.ini == ini else layout_of(target)
    if layout is None:
        return None
    signature = signature_of(layout)
    if seen is None or seen[:3] != (ini, layout, signature):
        seen = _Seen(ini, layout, signature, history_of(layout, signature))
        if len(_SEEN) >= _MOST_SEEN:
            _SEEN.clear()
        _SEEN[_key(target)] = seen
    heads, plain = seen.history
    if heads is None or not (plain or target.version_table is not None):
        return None
    if target.revision == "heads" or (target.revision == "head" and len(heads.heads) == 1):
        return heads.rows
    return frozenset({target.revision}) if target.revision in heads.known else None


def _key(target: Target) -> tuple[str, str]:
    return os.path.abspath(str(target.config)), target.section


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
