"""Clones of live files: of one moment whoever writes, and no lock of this process is lost."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import balanced_ledger
from support.small_disk import cloning_disk

from automigrator.backends.sqlite import backup, files
from automigrator.backends.sqlite.copying import clones
from automigrator.backends.sqlite.reader import Cancelled

MODES = ["wal", "delete", "truncate", "persist", "memory"]


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    with cloning_disk(request.param) as place:
        yield place


@pytest.fixture
def folder(disk: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=disk) as place:
        yield Path(place)


@pytest.fixture
def cloned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each copy was a clone; small files are cloned as well."""
    told: list[bool] = []

    def clone(*arguments: Any) -> bool:
        told.append(real(*arguments))
        return told[-1]

    real = clones.clone
    monkeypatch.setattr(clones, "clone", clone)
    monkeypatch.setattr(clones, "LEAST_BYTES", 0)
    return told


def copies(live: Path, mode: str, times: int) -> None:
    """Copy a file that is written to, and look at each copy."""
    balanced_ledger.make(live, mode)
    place = live.with_name("copy.db")
    with balanced_ledger.written(live, mode):
        for _ in range(times):
            before = balanced_ledger.last(live)
            backup.copy(live, place)
            after = balanced_ledger.last(live)
            assert {p.name for p in live.parent.glob("copy.db*")} == {"copy.db"}
            assert before <= balanced_ledger.checked(place) <= after
            place.unlink()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_clone_is_of_one_moment_under_writers_and_checkpoints(
    folder: Path, mode: str, cloned: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    # as when the machine is busy between the file and its log
    monkeypatch.setattr(clones, "_SCRIPT", clones._SCRIPT.replace("shift", "sleep 0.05; shift"))
    copies(folder / "live.db", mode, 3)
    assert cloned == [True] * 3


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_so_are_a_thousand(folder: Path, mode: str, cloned: list[bool]) -> None:
    copies(folder / "live.db", mode, 1000)
    assert cloned == [True] * 1000
