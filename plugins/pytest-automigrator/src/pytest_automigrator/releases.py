"""Digests of revisions that were released: nobody may change them any more."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pytest_automigrator.application import Application
from pytest_automigrator.settings import Settings

_ABOUT = "digests of released revisions, written by `pytest --automigrator-release`; commit it"


def digests(paths: dict[str, str]) -> dict[str, str]:
    """For each revision a digest of its file, whatever ends its lines."""
    return {
        revision: hashlib.sha256(Path(path).read_bytes().replace(b"\r\n", b"\n")).hexdigest()
        for revision, path in sorted(paths.items())
    }


def changed(settings: Settings, paths: dict[str, str]) -> list[str] | None:
    """A line for each released revision that is not as it was; None where none was released."""
    released = _read(settings.lock_file)
    if released is None:
        return None
    now = digests({each: paths[each] for each in released if each in paths})
    lines = []
    for revision, digest in released.items():
        if revision not in now:
            lines.append(f"revision {revision} was released, and is in no file any more")
        elif now[revision] != digest:
            lines.append(
                f"revision {revision} was released, and its file has changed: "
                f"{paths[revision]}. Databases that have it will not run it again: write a new "
                "revision instead"
            )
    return lines


def _read(path: Path) -> dict[str, str] | None:
    try:
        found: Any = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    return dict(found["revisions"])


def write(application: Application) -> str:
    """Write the digests of all revisions; returns what was done, for a person."""
    settings = application.settings
    paths = application.paths()
    before = _read(settings.lock_file) or {}
    now = digests(paths)
    text = json.dumps({"about": _ABOUT, "revisions": now}, indent=1) + "\n"
    settings.lock_file.write_text(text, "utf-8")
    added = len(now.keys() - before.keys())
    other = [each for each in before if now.get(each) != before[each]]
    said = f"{settings.lock_file}: {len(now)} revisions, {added} new"
    return said + (f"; changed or gone: {', '.join(sorted(other))}" if other else "")
