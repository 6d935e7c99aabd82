"""The graph of the revision files: whole, or refused where Alembic would only warn."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
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


class RevisionGraph:
    """The revisions of a script directory, read now.

    Raises HistoryError or RevisionImportError where they are broken.
    """

    def __init__(self, script: ScriptDirectory) -> None:
        self._files = _files(script)
        unread, self._code = alembic_private.is_unread(script), alembic_private.code_of_reading()
        self.heads = _heads(script)
        self._scripts = alembic_private.revisions(script)
        paths = {path for path, _, _ in self._files}
        self._plain = unread and paths == {each.path for each in self._scripts}
        """Whether these are the files, and the graph is what Alembic itself makes of them."""
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

        False where it may read other files, or a file says something else about the graph than
        before; then `script` makes a graph of what was run. Raises as reading does.
        """
        if not (self._plain and alembic_private.is_unread(script)) or script.sourceless:
            return False
        if alembic_private.code_of_reading() != self._code:
            return False
        if not self._files or _files(script) != self._files:
            return False
        if not all(map(_is_as_loaded, self._scripts)):
            return False
        found: list[Script] = []
        with _history_errors(), _import_errors(script):
            for each in self._scripts:
                module = _run_again(each.module)
                if not hasattr(module, "revision"):
                    return False  # its file's name may say it
                found.append(Script(module, module.revision, each.path))
        if not all(map(alembic_private.same_place, self._scripts, found)):
            # not run a third time: that may fail, or find something else
            alembic_private.read_by(script, functools.partial(_checked, script, found))
            return False
        twins = {each.revision: each for each in map(alembic_private.placed, self._scripts, found)}
        script.revision_map = alembic_private.map_of(self._map, twins)
        return True


def _is_as_loaded(script: Script) -> bool:
    """Whether the module still says how Alembic has loaded it, from this file."""
    spec = vars(script.module).get("__spec__")
    if type(spec) is not ModuleSpec or type(spec.loader) is not SourceFileLoader:
        return False
    same = spec.origin == spec.loader.path == script.path
    return same and spec.name == spec.loader.name and hasattr(script.module, "revision")


def _run_again(module: ModuleType) -> ModuleType:
    """A new module of the same file."""
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    again = module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


def _files(script: ScriptDirectory) -> Signature:
    """The state of the files; of none where they cannot be listed."""
    try:
        # as Alembic names them: a link to a folder may be changed
        folders = [Path(each).resolve() for each in alembic_private.version_locations(script)]
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
    with _history_errors():
        return tuple(script.get_heads())


@contextmanager
def _history_errors() -> Iterator[None]:
    """Context manager: Alembic's own errors are those of the history."""
    try:
        yield
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


def _checked(script: ScriptDirectory, run: list[Script] | None = None) -> Iterator[Script]:
    """The revisions, or those that were `run`, refused where Alembic would only warn."""
    seen: dict[str, Script] = {}
    with _import_errors(script):
        for revision in alembic_private.load_revisions(script) if run is None else run:
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
