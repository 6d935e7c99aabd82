"""The remembered heads are those of the files as they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from automigrator.backends.contract.checksums import checksum, whole
from automigrator.migrations.static import cache, proof
from automigrator.migrations.static.cache import History, history_of, signature_of
from automigrator.migrations.static.heads import Heads, heads_of
from automigrator.migrations.static.layout import Layout, Proof

ENV = "from alembic import context\ncontext.configure({})\ncontext.run_migrations()\n"
TEXT = "revision = '{id}'\ndown_revision = {down!r}\n"


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    versions = tmp_path / "versions"
    versions.mkdir()
    (versions / "a1.py").write_text(TEXT.format(id="a1", down=None))
    (tmp_path / "env.py").write_text(ENV.format(""))
    return Layout(tmp_path, (versions,))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows whenever the files are read."""
    seen: list[object] = []
    monkeypatch.setattr(cache, "heads_of", lambda files: seen.append(files) or heads_of(files))
    return seen


def looked(layout: Layout) -> History:
    return history_of(layout, signature_of(layout))


def test_unchanged_files_are_recalled(layout: Layout, reads: list[object]) -> None:
    ids, all_files = (
        frozenset({"a1"}),
        whole({"a1": checksum(TEXT.format(id="a1", down=None).encode())}),
    )
    history = (Heads(ids, ids, ids, all_files), Proof(True, True, True))
    assert looked(layout) == looked(layout) == history
    assert len(reads) == 1


def test_what_env_py_proves_is_recalled_too(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = looked(layout)
    monkeypatch.setattr(proof, "proof_of", lambda text: pytest.fail("env.py was parsed again"))
    assert looked(layout) == history


@pytest.mark.parametrize("change", ["added", "edited", "touched", "removed", "env.py"])
def test_any_change_of_a_file_is_noticed(layout: Layout, reads: list[object], change: str) -> None:
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
        case "env.py":
            layout.environment.write_text(ENV.format("version_table='own'"))
    assert looked(layout)[1] == Proof(change != "env.py", True, True)
    assert len(reads) == 2


def test_that_only_alembic_can_tell_is_remembered_too(layout: Layout, reads: list[object]) -> None:
    (layout.versions[0] / "a1.py").write_text("revision = str('a1')\n")
    looked(layout)
    assert looked(layout)[0] is None
    assert len(reads) == 1


def test_a_damaged_or_unwritable_cache_is_done_without(layout: Layout, reads: list[object]) -> None:
    looked(layout)
    (file,) = (layout.versions[0] / "__pycache__").iterdir()
    file.write_text("{")
    looked(layout)
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("no folder")
    looked(layout)
    assert len(reads) == 3


def test_nothing_is_written_where_python_may_not_write_its_own(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    looked(layout)
    assert [path.name for path in layout.versions[0].iterdir()] == ["a1.py"]
