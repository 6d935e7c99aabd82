"""The page on testing: its fixtures and tests pass, as one file of an application's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.pages import Page, Section, furnish

pytestmark = pytest.mark.plugins

PAGE = Page("testing")

MODELS = """
import sqlalchemy as sa

class models:
    metadata = sa.MetaData()

sa.Table("users", models.metadata, sa.Column("id", sa.Integer, primary_key=True),
         sa.Column("name", sa.String(50), nullable=False), sa.Column("email", sa.String(200)))
sa.Table("posts", models.metadata, sa.Column("id", sa.Integer, primary_key=True),
         sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE")),
         sa.Column("body", sa.Text, nullable=False))
"""


def test_every_section_is_played() -> None:
    assert PAGE.unplayed() == []


@PAGE.plays(*[heading for heading, section in PAGE.sections.items() if section.runs])
@pytest.mark.long
def test_the_pages_tests_pass(section: Section, tmp_path: Path) -> None:
    furnish(tmp_path)
    text = "\n".join([MODELS, *section.all("python")])
    (tmp_path / "test_application.py").write_text(text, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", "utf-8")
    chosen = "test_the or test_a_failed or (TestGoOnAtNight and option)"
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-k", chosen]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env={**os.environ, "AUTOMIGRATOR_TEST_POSTGRES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0 and "6 passed" in ended.stdout, ended.stdout
