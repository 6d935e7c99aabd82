"""One reading of the revision files: in order, or refused where Alembic would only warn."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterator
from pathlib import Path

from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import CycleDetected, RevisionMap
from alembic.util import CommandError, to_tuple

from automigrator.errors import HistoryError, RevisionImportError
from automigrator.migrations import alembic_private
from automigrator.migrations.static.heads import Signature, files
from automigrator.support.redaction import first_line

_FEW = 50
"""Revisions that are read again before the question whether they have to be is answered."""


class Reading:
    """The revisions of a script directory, read now.

    Raises HistoryError or RevisionImportError where they are broken.
    """

    def __init__(self, script: ScriptDirectory) -> None:
        self._files = _files(script)
        self.heads = _heads(script)
        self._script: ScriptDirectory | None = script
        """None once its modules were given to somebody who runs them."""
        self._contents: dict[str, bytes] = {}

    def content(self, path: str) -> bytes:
        """The bytes of a revision's file, read once."""
        if path not in self._contents:
            with open(path, "rb") as file:
                self._contents[path] = file.read()
        return self._contents[path]

    def give(self, script: ScriptDirectory) -> bool:
        """Have `script` run the revisions as they were read here, once.

        It is not done, and returns False, unless `script` would read the same, for all that
        env.py may have done since.
        """
        read, self._script = self._script, None
        if read is None or not self._files or alembic_private.is_read(script):
            return False
        scripts = alembic_private.revisions(read)
        if len(scripts) <= _FEW or script.sourceless != read.sourceless:
            return False
        if _files(script) != self._files:
            return False
        from automigrator.migrations.static.fixed import is_fixed  # local: few starts have as many

        if not all(is_fixed(self.content(each.path), each.module) for each in scripts):
            return False
        script.revision_map = read.revision_map
        return True


def _files(script: ScriptDirectory) -> Signature:
    """The state of the files; of none where they cannot be listed."""
    try:
        folders = map(Path, alembic_private.version_locations(script))
        return files(folders, recursive=script.recursive_version_locations)
    except OSError:
        return ()


def directory(config: Config) -> ScriptDirectory:
    """The script directory, of which nothing is read yet. Raises HistoryError."""
    try:
        script = ScriptDirectory.from_config(config)
    except CommandError as error:
        raise HistoryError(str(error)) from error
    script.revision_map = RevisionMap(functools.partial(_checked, script))
    return script


def _heads(script: ScriptDirectory) -> tuple[str, ...]:
    """Read the revisions, and return the last ones."""
    try:
        return tuple(script.get_heads())
    except CycleDetected as error:
        raise HistoryError(
            f"the revisions form a loop: {error}",
            "change the down_revision of one of them, so that one comes first",
        ) from error
    except CommandError as error:
        raise HistoryError(str(error)) from error


def _checked(script: ScriptDirectory) -> Iterator[Script]:
    """The revisions, refused where Alembic would only warn."""
    seen: dict[str, Script] = {}
    try:
        for revision in alembic_private.load_revisions(script):
            twin = seen.get(revision.revision)
            if twin is not None:
                raise HistoryError(
                    f"revision {revision.revision} is in two files: {twin.path} "
                    f"and {revision.path}",
                    "delete one of the files, or give one another id and down_revision; two "
                    "branches that were merged may both have brought it",
                )
            seen[revision.revision] = revision
    except (HistoryError, CommandError, CycleDetected):
        raise
    except (Exception, SystemExit) as error:
        folders = set(alembic_private.version_locations(script))
        frames = traceback.walk_tb(error.__traceback__)
        files = (frame.f_code.co_filename for frame, _ in frames)
        name = next(
            (file for file in files if not folders.isdisjoint(Path(file).parents)),
            str(getattr(error, "filename", None) or "a revision file"),
        )
        raise RevisionImportError(f"{name} cannot be imported: {first_line(error)}") from error
    for revision in seen.values():
        for parent in down_revisions(revision):
            if parent not in seen:
                raise HistoryError(
                    f"revision {revision.revision} ({revision.path}) comes after {parent}, "
                    "which is in no file",
                    f"bring the file of {parent} back, or correct that down_revision; look "
                    "whether the deployment has every file",
                )
    yield from seen.values()


def down_revisions(script: Script) -> tuple[str, ...]:
    """The revisions that a revision's own file says it comes after."""
    return to_tuple(script.down_revision, default=())
