"""The revisions in the files, checked, and the steps to a wanted one."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from importlib.util import decode_source
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RangeNotAncestorError, ResolutionError
from alembic.util import CommandError, pyc_file_from_path
from sqlalchemy.exc import InvalidRequestError

from automigrator.backends.contract.checksums import checksum
from automigrator.errors import HistoryError, RevisionImportError, UnknownRevisionError
from automigrator.migrations import alembic_private
from automigrator.migrations.causes import no_way_back, not_found, steps_back
from automigrator.migrations.revision_graph import RevisionGraph, directory, down_revisions
from automigrator.migrations.static.commit_calls import may_commit
from automigrator.migrations.static.heads import files, heads_of
from automigrator.migrations.static.imports import imported
from automigrator.migrations.static.layout import Proof
from automigrator.migrations.static.proof import proof_of
from automigrator.status import PendingRevision


class History:
    """An Alembic history. Raises HistoryError or RevisionImportError when it is broken.

    Without `read` its revisions are first read when env.py runs.
    """

    def __init__(self, config: Config, *, read: bool = True) -> None:
        self.script = directory(config)
        self._roots = [os.path.abspath(each) for each in config.get_prepend_sys_paths_list() or ()]
        self.heads: tuple[str, ...] = ()
        self._graph: RevisionGraph | None = None
        self._forget()
        self.imported: dict[Path, Stamp] = {}
        """The application's modules that a digest has read, as they were by then."""
        if read:
            self._read(self.script)

    def _read(self, script: ScriptDirectory) -> None:
        graph = RevisionGraph(script)
        self.script, self.heads, self._graph = script, graph.heads, graph
        self._forget()

    def _forget(self) -> None:
        self._digests: dict[tuple[str, ...], str] = {}
        self._described: dict[tuple[str, ...], tuple[PendingRevision, ...]] = {}
        self._may_commit: dict[tuple[str, ...], bool] = {}
        self._outlooks: dict[tuple[str, tuple[str, ...]], tuple[tuple[str, ...], ...]] = {}
        self._wanted: dict[tuple[tuple[str, ...], ...], tuple[str, ...]] = {}

    def copy(self) -> History:
        """The same history for another target: it knows what this one learns of the files.

        So it is until it adopts the revisions of its own env.py.
        """
        return copy.copy(self)

    def adopt(self, script: ScriptDirectory) -> None:
        """Go on with the revisions as `script` reads them now, with env.py around it.

        A revision may depend on what env.py has set up; so does where they are.
        """
        try:
            if self._graph is not None and self._graph.run_again(script):
                self.script = script
                self._described = {}  # a docstring may be another
            else:
                self._read(script)
        except RevisionImportError as error:
            # one that adds a table to the application's metadata can be read once in a process
            if not (self.heads and isinstance(error.__cause__, InvalidRequestError)):
                raise

    def same_by_text(self, script: ScriptDirectory) -> bool:
        """Whether the text of the files proves that `script` would read the same graph again.

        Then a look need not import every revision anew.
        """
        folders = alembic_private.version_locations(script)
        if not self.heads or folders != alembic_private.version_locations(self.script):
            return False
        recursive = script.recursive_version_locations
        try:
            found = heads_of(files(map(Path, folders), recursive=recursive))
        except OSError:
            return False
        read = {each.revision for each in self.script.revision_map._revision_map.values() if each}
        return found is not None and found.heads == set(self.heads) and found.known == read

    @property
    def environment(self) -> str:
        """The text of env.py; empty where it cannot be read."""
        try:
            return decode_source(self._environment.read_bytes())
        except (OSError, UnicodeDecodeError, SyntaxError):
            return ""

    @property
    def _environment(self) -> Path:
        """The file of env.py, which may be there without its source."""
        path = Path(self.script.env_py_location)
        return path if path.exists() else pyc_file_from_path(path) or path

    @functools.cached_property
    def proof(self) -> Proof:
        """What the syntax of env.py proves; nothing where it cannot be read."""
        try:
            return proof_of(self._environment.read_bytes())
        except OSError:
            return Proof()

    def knows(self, heads: Iterable[str]) -> bool:
        """Whether every head is in a file."""
        return all(head in self.script.revision_map._revision_map for head in heads)

    def check_known(self, heads: Iterable[str]) -> None:
        """Raise UnknownRevisionError when a database's head is in no file."""
        unknown = tuple(head for head in heads if not self.knows([head]))
        if unknown:
            raise UnknownRevisionError(unknown, self.heads)

    def steps(self, revision: str, heads: tuple[str, ...], *, down: bool = False) -> list[Any]:
        """Alembic's own steps from `heads` to `revision`; none when the database is beyond it."""
        self.check_known(heads)
        try:
            return alembic_private.steps(self.script, revision, heads, down=down)
        except CommandError as error:
            beyond = isinstance(error.__cause__, RangeNotAncestorError)
            if beyond and self.reached(self.asked_for(revision), heads):
                return []
            wrong = no_way_back(revision, heads, len(self._closure(heads)), error) if down else None
            raise wrong or not_found(self.script, revision, error) from error

    def ensure_way_back(self, revision: str) -> None:
        """Raise HistoryError where no database of this history can be rolled back to `revision`."""
        try:
            self.steps(revision, self.heads, down=True)
        except HistoryError as error:
            reason = error.__cause__.__cause__ if error.__cause__ is not None else None
            too_far = steps_back(revision) > len(self._closure(self.heads))
            if too_far or isinstance(reason, ResolutionError):
                raise

    def outlook(self, revision: str, heads: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """Return the ids of the steps from `heads` to `revision`, and the heads after them."""
        if (revision, heads) not in self._outlooks:
            steps = self.steps(revision, heads)
            self._outlooks[revision, heads] = self.ids(steps), self.wanted(heads, steps)
        return self._outlooks[revision, heads]

    def ids(self, steps: Iterable[Any]) -> tuple[str, ...]:
        """The revision ids that `steps` run, in order."""
        return tuple(revision_id(step) for step in steps)

    def wanted(self, heads: tuple[str, ...], steps: Iterable[Any]) -> tuple[str, ...]:
        """The heads a database has once `steps` are applied on top of `heads`."""
        ids = self.ids(steps)
        if (heads, ids) not in self._wanted:
            self._wanted[heads, ids] = self.maximal((*heads, *ids))
        return self._wanted[heads, ids]

    def remaining(self, heads: tuple[str, ...], steps: Iterable[Any]) -> tuple[str, ...]:
        """The heads a database at `heads` has once downgrade `steps` have run."""
        return self.maximal(self._closure(heads).difference(self.ids(steps)))

    def reached(self, wanted: Iterable[str], heads: Iterable[str]) -> bool:
        """Whether a database at `heads` has everything that `wanted` asks for."""
        return set(wanted) <= self._closure(heads)

    def applied(self, candidates: Iterable[str], heads: Iterable[str]) -> tuple[str, ...]:
        """Those of `candidates` that a database at `heads` has."""
        closure = self._closure(heads)
        return tuple(each for each in candidates if each in closure)

    def digest(self, revisions: Iterable[str]) -> str:
        """A digest of env.py, of these revisions' files and of what they import, in a thread.

        It tells two deployments apart. The modules are those of the application.
        """
        ids = tuple(revisions)
        if ids not in self._digests:
            texts = self.sources(ids)
            contents = list(texts.values())
            for name, content in self.imports(texts).items():
                contents += [name.encode(), content]
            hashed = hashlib.blake2b(digest_size=16)
            for content in contents:
                hashed.update(len(content).to_bytes(8))
                hashed.update(content)
            self._digests[ids] = hashed.hexdigest()
        return self._digests[ids]

    def _seen(self, module: Path) -> None:
        self.imported[module] = stamp(module)

    def sources(self, revisions: Iterable[str]) -> dict[str, bytes]:
        """The files of these revisions, after that of env.py, by their paths."""
        paths = [str(self._environment), *(self._script(each).path for each in revisions)]
        return {path: self._content(path) for path in paths}

    def checksums(self, revisions: Iterable[str]) -> dict[str, str]:
        """The checksum of each of these revisions' files."""
        return {each: checksum(self._content(self._script(each).path)) for each in revisions}

    def imports(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """The application's modules that files import, by their names; see `imported`."""
        return imported(files, self._roots, self._seen)

    def describe(self, revisions: Iterable[str]) -> tuple[PendingRevision, ...]:
        ids = tuple(revisions)
        if ids not in self._described:
            self._described[ids] = tuple(
                PendingRevision(each.revision, down_revisions(each), each.doc, each.path)
                for each in map(self._script, ids)
            )
        return self._described[ids]

    def may_commit(self, revisions: Iterable[str]) -> bool:
        """Whether the code of one of these revisions may commit in its middle, or is not there."""
        ids = tuple(revisions)
        if ids not in self._may_commit:
            paths = [self._script(each).path for each in ids]
            try:
                self._may_commit[ids] = any(
                    not path.endswith(".py") or may_commit(self._content(path)) for path in paths
                )
            except OSError:
                return True
        return self._may_commit[ids]

    def names(self, name: str, heads: Iterable[str]) -> bool:
        """Whether a revision that a database at `heads` has names something in its text."""
        word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        return any(word.search(self.text(each.revision)) for each in self.ancestry(heads))

    def text(self, revision: str) -> str:
        """The text of a revision's file; empty where it cannot be read."""
        try:
            return decode_source(self._content(self._script(revision).path))
        except (OSError, UnicodeDecodeError, SyntaxError):
            return ""

    def asked_for(self, revision: str) -> tuple[str, ...]:
        """The revisions that `revision` names; every head where it names none by itself."""
        try:
            return tuple(s.revision for s in self.script.get_revisions(revision) if s)
        except CommandError:
            return self.heads

    def lacking(self, revision: str, heads: Iterable[str]) -> tuple[str, ...]:
        """What `revision` asks for on top of those of `heads` that a file knows.

        Alembic keeps no row for a revision that something applied comes after.
        """
        known = {head for head in heads if self.knows([head])}
        above = alembic_private.descendants(self.script, known) - known
        return self.maximal(above & self._closure(self.asked_for(revision)))

    def ancestry(self, heads: Iterable[str]) -> tuple[Script, ...]:
        """Every revision that a database at `heads` has."""
        return tuple(self._script(each) for each in sorted(self._closure(heads)))

    def precedes(self, revision: str, other: str) -> bool:
        """Whether `revision` is `other`, or comes before it."""
        return self.knows([revision]) and revision in self._closure([other])

    def maximal(self, revisions: Iterable[str]) -> tuple[str, ...]:
        """Those of `revisions` that no other one comes after."""
        given = set(revisions)
        parents = {p for each in given for p in alembic_private.parents(self._script(each))}
        return tuple(sorted(given - self._closure(parents)))

    def _script(self, revision: str) -> Script:
        return alembic_private.script_of(self.script, revision)

    def _content(self, path: str) -> bytes:
        """What is in one of the files that the revisions were read from, or in env.py."""
        if self._graph is None:
            return Path(path).read_bytes()
        return self._graph.content(path)

    def _closure(self, revisions: Iterable[str]) -> set[str]:
        self.check_known(revisions := tuple(revisions))
        return alembic_private.ancestors(self.script, revisions)


Stamp = tuple[int, int] | None
"""A file's time and size, by which a change is noticed; None where it cannot be read."""


def stamp(path: Path) -> Stamp:
    """The state of a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def revision_id(step: Any) -> str:
    """The id of the revision a step runs."""
    return str(step.revision.revision)
