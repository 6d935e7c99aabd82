"""Whether there is nothing to do, by one SELECT and the files' text."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from automigrator.migrations.static.cache import History, history_of, signature_of
from automigrator.migrations.static.heads import checksums_of
from automigrator.migrations.static.layout import layout_of
from automigrator.report import TargetReport
from automigrator.runner.session import opened
from automigrator.support.concurrency import in_thread

if TYPE_CHECKING:
    from automigrator.backends.contract.values import Sight
    from automigrator.migrations.static.heads import Signature
    from automigrator.migrations.static.layout import Layout
    from automigrator.runner.session import Session
    from automigrator.target import Target


_Ini = tuple[tuple[int, int] | None, ...]

_SEEN: dict[tuple[str, str], tuple[_Ini, Layout, Signature, History]] = {}

"""What this process has read of each configuration, and the state of the files by then."""

_MOST_SEEN = 64

_FEW_FILES = 300


async def current(
    targets: Sequence[Target], kept: AsyncExitStack
) -> tuple[tuple[TargetReport, ...], Session | None]:
    """The reports of the first targets, as long as they lack nothing, and the next one's session.

    The session stays open, for what is to be done, until `kept` is closed.
    """
    reports: list[TargetReport] = []
    for target in targets:
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(opened(target))
            heads = await nothing_to_do(session)
            if not heads:
                kept.push_async_exit(stack.pop_all())
                return tuple(reports), session
        seconds = time.monotonic() - began
        reports.append(TargetReport(target.name, "current", heads, heads, elapsed_s=seconds))
    return tuple(reports), None


async def nothing_to_do(session: Session) -> tuple[str, ...]:
    """The heads of a database that is at the wanted ones beyond doubt; none where a look must tell.

    Takes no lock, imports no Alembic, loads no plugin. An error is left to the steps that can
    answer it.
    """
    try:
        target = session.target
        if session.commons is not None and session.commons.is_behind(target):
            return ()
        if not isinstance(target.config, str | os.PathLike):
            return ()
        sight = await session.backend.look([session.table], heads_only=True)
        heads = sight.all_heads()
        if sight.unfinished or not (heads or session.commons):
            return ()
        seen = _SEEN.get(_key(target))
        # a thread costs more than a few dozen stats
        few = seen is not None and len(seen[2]) <= _FEW_FILES
        wanted = _wanted(target) if few else await in_thread(lambda: _wanted(target))
        if session.commons is not None and sight.exists and is_behind(target, heads):
            session.commons.note_behind(target)
        if not heads or frozenset(heads) != wanted:
            return ()
        return heads if await _as_applied(session, sight) else ()
    except Exception:  # noqa: BLE001 - met again by the steps that follow
        return ()


async def _as_applied(session: Session, sight: Sight) -> bool:
    """Whether the files of the applied revisions are what they were, as far as that was kept."""
    target, then = session.target, sight.checksum
    _, _, signature, (known, _) = _SEEN[_key(target)]
    if then is None or target.edited == "ignore" or (known is not None and known.checksum == then):
        return True
    kept = await session.backend.checksums([session.table])
    now = await in_thread(lambda: checksums_of(signature[1:]))
    return kept is None or all(now.get(each, was) == was for each, was in kept.of.items())


def wanted_rows(target: Target) -> frozenset[str] | None:
    """The version rows of a database that lacks nothing; None where the text does not say."""
    if not isinstance(target.config, str | os.PathLike):
        return None
    try:
        return _wanted(target)
    except Exception:  # noqa: BLE001 - met again by those that read the history
        return None


def knows_table(target: Target) -> bool:
    """Whether it is known which version table env.py uses, without asking it."""
    if target.version_table is not None:
        return True
    wanted_rows(target)
    seen = _SEEN.get(_key(target)) if isinstance(target.config, str | os.PathLike) else None
    return seen is not None and seen[3][1].table


def is_behind(target: Target, heads: Sequence[str]) -> bool:
    """Whether a database at these heads lacks something for certain."""
    if wanted_rows(target) is None or target.revision not in ("head", "heads"):
        return False
    known, _ = _SEEN[_key(target)][3]
    return known is not None and known.known.issuperset(heads) and not known.rows <= {*heads}


def _wanted(target: Target) -> frozenset[str] | None:
    """The version rows of a database that lacks nothing; None where the text does not say."""
    path = Path(str(target.config))
    files = (path, path.with_name("alembic.ini"), path.with_name("pyproject.toml"))
    ini = tuple(map(_stamp, files))
    seen = _SEEN.get(_key(target))
    layout = seen[1] if seen is not None and seen[0] == ini else layout_of(target)
    if layout is None:
        return None
    signature = signature_of(layout)
    if seen is None or seen[:3] != (ini, layout, signature):
        seen = (ini, layout, signature, history_of(layout, signature))
        if len(_SEEN) >= _MOST_SEEN:
            _SEEN.clear()
        _SEEN[_key(target)] = seen
    heads, proof = seen[3]
    if heads is None or not proof.folders or not (proof.table or target.version_table is not None):
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
