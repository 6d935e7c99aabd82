"""A digest of what a target's migration may run: it tells two deployments apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from automigrator.migrations.static.heads import files
from automigrator.migrations.static.imports import imported
from automigrator.migrations.static.layout import Layout, layout_of
from automigrator.runner.session import opened
from automigrator.support.concurrency import in_thread
from automigrator.target import Target


def key_of(target: Target) -> tuple[object, ...]:
    """What two targets of one history have in common: their files, and where they go."""
    config = target.config
    path = os.path.abspath(config) if isinstance(config, str | os.PathLike) else id(config)
    return path, target.section, target.revision


async def plan_of(target: Target) -> str:
    """The digest of env.py, of every revision file, and of the application's modules they import.

    It is the same on every machine that has the same files. `revision` counts, too. Raises what
    reading the history raises.
    """
    layout = layout_of(target)
    if layout is not None:
        return await in_thread(partial(_of_files, target, layout))
    async with opened(target) as session:  # only Alembic can tell where the files are
        history = await session.history()
        everything = history.ids(history.steps(target.revision, ()))
        return await in_thread(partial(history.digest, everything))


def _of_files(target: Target, layout: Layout) -> str:
    try:
        found = [path for path, _, _ in files(layout.versions, recursive=layout.recursive)]
        paths = [str(layout.environment), *sorted(found, key=os.path.basename)]
        texts = {path: Path(path).read_bytes() for path in paths}
    except OSError:
        return ""  # each tenant's run says what is wrong with them
    roots = [os.getcwd(), os.path.dirname(os.path.abspath(str(target.config)))]
    contents = [target.revision.encode(), *texts.values()]
    for name, content in imported(texts, roots).items():
        contents += [name.encode(), content]
    return digest_of(contents)


def digest_of(contents: Iterable[bytes]) -> str:
    """One digest of several contents, each told from the next."""
    hashed = hashlib.blake2b(digest_size=16)
    for content in contents:
        hashed.update(len(content).to_bytes(8))
        hashed.update(content)
    return hashed.hexdigest()
