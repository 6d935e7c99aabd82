"""The folder in which the pages' blocks run."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pages import furnish


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a page, with the projects that its blocks name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
    furnish(tmp_path)
    return tmp_path
