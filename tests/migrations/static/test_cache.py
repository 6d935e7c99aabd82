"""The remembered heads are those of the files as they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from automigrator.migrations.static.cache import recall, remember
from automigrator.migrations.static.heads import Heads, files, heads_of
from automigrator.migrations.static.layout import Layout

TEXT = "revision = '{id}'\ndown_revision = {down!r}\n"


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    versions = tmp_path / "versions"
    versions.mkdir()
    (versions / "a1.py").write_text(TEXT.format(id="a1", down=None))
    return Layout(tmp_path, (versions,))


def looked(layout: Layout) -> tuple[bool, Heads | None]:
    signature = files(layout.versions, recursive=False)
    answer = recall(layout, signature)
    remember(layout, signature, heads_of(signature))
    return answer


def test_unchanged_files_are_recalled(layout: Layout) -> None:
    assert looked(layout) == (False, None)
    found, heads = looked(layout)
    assert found and heads is not None and heads.rows == {"a1"} and heads.known == {"a1"}


@pytest.mark.parametrize("change", ["added", "edited", "touched", "removed"])
def test_any_change_of_a_file_is_noticed(layout: Layout, change: str) -> None:
    looked(layout)
    (folder,) = layout.versions
    match change:
        case "added":
            (folder / "a2.py").write_text(TEXT.format(id="a2", down="a1"))
        case "edited":
            (folder / "a1.py").write_text(TEXT.format(id="a9", down=None))
        case "touched":
            os.utime(folder / "a1.py", ns=(1, 1))
        case "removed":
            (folder / "a1.py").unlink()
    assert looked(layout) == (False, None)


def test_that_only_alembic_can_tell_is_remembered_too(layout: Layout) -> None:
    (layout.versions[0] / "a1.py").write_text("revision = str('a1')\n")
    looked(layout)
    assert looked(layout) == (True, None)


def test_a_damaged_or_unwritable_cache_is_done_without(layout: Layout) -> None:
    looked(layout)
    (cache,) = (layout.versions[0] / "__pycache__").iterdir()
    cache.write_text("{")
    assert looked(layout) == (False, None)
    cache.unlink()
    cache.parent.rmdir()
    cache.parent.write_text("no folder")
    assert looked(layout) == (False, None)


def test_nothing_is_written_where_python_may_not_write_its_own(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    looked(layout)
    assert [path.name for path in layout.versions[0].iterdir()] == ["a1.py"]
