"""The folders of revisions: there, and holding the revisions that lie about them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from alembic.script import ScriptDirectory

from automigrator.errors import HistoryError
from automigrator.migrations import alembic_private

_REVISION = re.compile(rb"^down_revision\b[^=\n]*=", re.MULTILINE)


def named(script: ScriptDirectory) -> tuple[Path, ...]:
    """The folders that Alembic reads, by its options and by what env.py made of them."""
    return tuple(map(Path, alembic_private.version_locations(script)))


def check(script: ScriptDirectory) -> None:
    """Raise HistoryError for a folder that is not there, or revisions that are out of sight.

    Alembic passes over both without a word, and an empty database stays empty.
    """
    for folder in named(script):
        if not folder.is_dir():
            raise HistoryError(
                f"there is no folder {folder}, where Alembic's options look for revisions",
                "bring the folder back if the deployment lacks it, or correct version_locations in "
                "the configuration; a relative path starts from the working directory "
                f"({Path.cwd()}), one that begins with %(here)s from the configuration's folder",
            )
    if script.get_heads():
        return
    stray = next(_stray(script), None)
    if stray is None:
        return
    looked = ", ".join(map(str, named(script)))
    advice = (
        "set sourceless = true in the configuration, or deploy the .py files"
        if stray.suffix == ".pyc"
        else f"name {stray.parent} in version_locations, or move the files; for folders within "
        "these, set recursive_version_locations = true"
    )
    raise HistoryError(
        f"there is no revision in {looked}, and {stray} is one, where Alembic's options do not "
        "let it look",
        advice,
    )


def _stray(script: ScriptDirectory) -> Iterator[Path]:
    """Files of revisions that Alembic does not read, in the folders where they are expected."""
    own = Path(script.dir)
    for top in dict.fromkeys((*named(script), own / "versions", own)):
        for folder, folders, files in os.walk(top):
            folders[:] = sorted(set(folders) - {"__pycache__"}) if top != own else []
            for name in sorted(files):
                path = Path(folder, name)
                compiled = name.endswith(".pyc") and not script.sourceless and top != own
                if compiled or (name.endswith(".py") and _is_revision(path)):
                    yield path


def _is_revision(path: Path) -> bool:
    try:
        return _REVISION.search(path.read_bytes()) is not None
    except OSError:
        return False
