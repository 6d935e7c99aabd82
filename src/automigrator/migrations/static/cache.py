"""Remembers what the files of a history say, beside their .pyc files, until one of them changes.

Reading thousands of files is most of what a start with nothing to do costs. As Python does for
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

from automigrator.migrations.static.heads import Heads, Signature, files, heads_of
from automigrator.migrations.static.layout import Layout, Proof

FORMAT = 6

History = tuple[Heads | None, Proof]

"""The heads by the files' text, None where only Alembic can tell; and what env.py proves."""


def signature_of(layout: Layout) -> Signature:
    """The state of env.py, and of the revision files. Raises OSError where there is no env.py."""
    status = layout.environment.stat()
    environment = (str(layout.environment), status.st_mtime_ns, status.st_size)
    return (environment, *files(layout.versions, recursive=layout.recursive))


def history_of(layout: Layout, signature: Signature) -> History:
    """The history of these files, remembered or read now. Raises what reading raises."""
    path = _path(layout)
    if path is None:
        return _read(layout, signature)
    digest = hashlib.blake2b(repr((FORMAT, signature)).encode(), digest_size=16).hexdigest()
    history = _recalled(path, digest)
    if history is None:
        history = _read(layout, signature)
        if not sys.dont_write_bytecode:
            _remember(path, digest, history)
    return history


def _read(layout: Layout, signature: Signature) -> History:
    # local: a remembered answer needs no syntax
    from automigrator.migrations.static.proof import proof_of

    return heads_of(signature[1:]), proof_of(layout.environment.read_bytes())


def _recalled(path: Path, digest: str) -> History | None:
    try:
        data = json.loads(path.read_bytes())
        if data["of"] != digest:
            return None
        ids = [frozenset(map(str, each)) for each in data["heads"] or ()]
        heads = Heads(ids[0], ids[1], ids[2], str(data["checksum"])) if ids else None
        return heads, Proof(*(each is True for each in data["proof"]))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _remember(path: Path, digest: str, history: History) -> None:
    """Write the cache where Python may write its own; where it cannot be written, do without."""
    heads, proof = history
    data = {
        "of": digest,
        "heads": heads and [sorted(ids) for ids in (heads.heads, heads.rows, heads.known)],
        "checksum": heads.checksum if heads else "",
        "proof": [*vars(proof).values()],
    }
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
