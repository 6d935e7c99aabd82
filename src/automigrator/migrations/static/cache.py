"""Remembers the heads of revision folders beside their .pyc files, for as long as no file changes.

To read thousands of files is most of what a start with nothing to do costs. As Python does for
its own cache, a file is taken for unchanged while its time and size are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from automigrator.migrations.static.heads import Heads, Signature
from automigrator.migrations.static.layout import Layout

FORMAT = 1


def recall(layout: Layout, files: Signature) -> tuple[bool, Heads | None]:
    """Whether the files are known, and their heads; None says that only Alembic can tell."""
    path = _path(layout)
    if path is None:
        return False, None
    try:
        data = json.loads(path.read_bytes())
        if data["of"] != _digest(files):
            return False, None
        if data["heads"] is None:
            return True, None
        parts = (data[part] for part in ("heads", "rows", "known"))
        return True, Heads(*(frozenset(map(str, part)) for part in parts))
    except (OSError, ValueError, KeyError, TypeError):
        return False, None


def remember(layout: Layout, files: Signature, heads: Heads | None) -> None:
    """Write the cache where Python may write its own; where it cannot be written, do without."""
    path = _path(layout)
    if path is None or sys.dont_write_bytecode:
        return
    data: dict[str, object] = {"of": _digest(files), "heads": None}
    if heads is not None:
        data |= {part: sorted(getattr(heads, part)) for part in ("heads", "rows", "known")}
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps(data), "utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _path(layout: Layout) -> Path | None:
    folders = [folder for folder in layout.versions if folder.is_dir()]
    if not folders:
        return None
    # one cache a layout: two targets may share a folder and differ in the others
    name = hashlib.blake2b(repr(layout).encode(), digest_size=8).hexdigest()
    beside = importlib.util.cache_from_source(str(folders[0] / f"automigrator-{name}.py"))
    return Path(beside).with_suffix(".json")


def _digest(files: Signature) -> str:
    return hashlib.blake2b(repr((FORMAT, files)).encode(), digest_size=16).hexdigest()
