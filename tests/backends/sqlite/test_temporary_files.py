"""A root that may only be read, as in a hardened container: SQLite needs a folder besides."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.notes_application import Application
from support.refusing_calls import started_on_a_read_only_root
from support.small_disk import small_disk

LARGE = """
op.execute(
    "CREATE TEMP TABLE large AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c "
    "LIMIT 100000) SELECT n, hex(randomblob(50)) AS h FROM c ORDER BY h"
)
"""


@pytest.fixture
def application() -> Iterator[Application]:
    """Its database is on a disk of its own, the rest of it on the root."""
    root = Path(tempfile.mkdtemp(prefix="automigrator-root-", dir="/tmp"))
    with small_disk() as disk:
        yield Application(root, f"sqlite+aiosqlite:///{disk / 'app.db'}")
    shutil.rmtree(root)


def test_no_folder_for_temporary_files_is_told_with_the_variable(application: Application) -> None:
    application.deploy(LARGE)
    report = started_on_a_read_only_root(application.url, application.config)
    (failure,) = report["targets"][0]["failures"]
    assert failure["kind"] == "read-only", failure
    assert "SQLITE_TMPDIR" in failure["advice"] and "server" not in failure["advice"]
    assert application.heads == {"r1"}


@pytest.mark.long
def test_with_the_variable_it_is_migrated(application: Application) -> None:
    application.deploy(LARGE)
    folder = str(Path(application.url.removeprefix("sqlite+aiosqlite:///")).parent)
    report = started_on_a_read_only_root(application.url, application.config, SQLITE_TMPDIR=folder)
    assert report["outcome"] == "migrated"
