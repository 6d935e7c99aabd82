"""One reading of the revision files: in order, or refused where Alembic would only warn."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import CycleDetected
from alembic.util import CommandError, to_tuple

from automigrator.errors import HistoryError, RevisionImportError
from automigrator.migrations import alembic_private
from automigrator.migrations.static.heads import Signature, files
from automigrator.support.redaction import first_line


class Reading:
    """The revisions of a script directory, read now.

    Raises HistoryError or RevisionImportError where they are broken.
    """

    def __init__(self, script: ScriptDirectory) -> None:
        self._files = _files(script)
        self.heads = _heads(script)
        self._scripts = alembic_private.revisions(script)
        self._map = script.revision_map
        self._contents: dict[str, bytes] = {}

    def content(self, path: str) -> bytes:
        """The bytes of a revision's file, read once."""
        if path not in self._contents:
            with open(path, "rb") as file:
                self._contents[path] = file.read()
        return self._contents[path]

    def run_again(self, script: ScriptDirectory) -> bool:
        """Run the code of every file again for `script`, and keep the graph, which costs more.

        False, and `script` as it was, where it may read other files, or a file says something else
        about the graph than before. Raises RevisionImportError.
        """
        if not alembic_private.is_unread(script) or script.sourceless:
            return False
        if not self._files or _files(script) != self._files:
            return False
        twins: dict[str, Script] = {}
        with _import_errors(script):
            for each in self._scripts:
                module = _run_again(each.module)
                twin = alembic_private.twin(each, module) if module is not None else None
                if twin is None:
                    return False
                twins[each.revision] = twin
        script.revision_map = alembic_private.map_of(self._map, twins)
        return True


def _run_again(module: ModuleType) -> ModuleType | None:
    """A new module of the same file; None where it does not say how it was made."""
    spec = module.__spec__
    if spec is None or spec.loader is None:
        return None
    again = module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


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
    alembic_private.read_by(script, functools.partial(_checked, script))
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


@contextmanager
def _import_errors(script: ScriptDirectory) -> Iterator[None]:
    """Context manager: say in which file the code of a revision has failed."""
    try:
        yield
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


def _checked(script: ScriptDirectory) -> Iterator[Script]:
    """The revisions, refused where Alembic would only warn."""
    seen: dict[str, Script] = {}
    with _import_errors(script):
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
