"""No copy is made for revisions that may run again, as a restore would undo what others wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.notes_application import GOOD, HALF_WAY, Application

from automigrator import MigrationError, Migrator

pytestmark = pytest.mark.long("[postgresql")

ALWAYS = {"snapshot": "always", "repeatable": ["r2"]}


async def test_no_copy_is_made_where_all_that_is_pending_is_repeatable(notes: Application) -> None:
    notes.deploy(HALF_WAY)
    with pytest.raises(MigrationError) as caught:
        await notes.start(("backup-restore", ALWAYS))
    (report,) = caught.value.report.targets
    assert notes.seen.snapshot is None
    assert report.failures[0].state == "partial-within-revision"
    assert "no snapshot was taken: what is pending is repeatable" in report.notes


async def test_a_copy_is_made_where_anything_else_is_pending(notes: Application) -> None:
    notes.deploy(GOOD, "pass")
    assert (await notes.start(("backup-restore", ALWAYS))).outcome == "migrated"
    assert notes.seen.snapshot is not None


@pytest.mark.long
async def test_a_rollback_of_a_repeatable_revision_is_copied(
    tmp_path: Path, sqlite_url: str
) -> None:
    notes = Application(tmp_path, sqlite_url)
    notes.deploy(GOOD)
    await notes.start()
    migrator = Migrator(notes.target(), recovery=[("backup-restore", ALWAYS)])
    assert (await migrator.rollback("r1"))["app"].snapshot is not None
