"""The journal beside a SQLite file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from automigrator.backends.sqlite import journal
from automigrator.backends.sqlite.companions import journal_path
from automigrator.backends.sqlite.journal import Entry, Progress
from automigrator.backends.sqlite.recover import recover

ENTRY = Entry("migrating", ("a1", "b2"), ("c3",), "/data/app.db.snapshot-1", 1795497300.25)


def test_an_entry_reads_back_as_it_was_written(tmp_path: Path) -> None:
    live = tmp_path / "app.db"
    assert journal.read(live) is None
    journal.write(live, ENTRY)
    assert journal.read(live) == ENTRY
    later = Entry("restoring", (), (), "odd \udcff 'näme", 2.0)
    journal.write(live, later)
    assert journal.read(live) == later
    assert [p.name for p in tmp_path.iterdir()] == ["app.db.automigrator-journal.json"]
    assert journal_path(live) == tmp_path / "app.db.automigrator-journal.json"


def test_clearing_is_idempotent(tmp_path: Path) -> None:
    live = tmp_path / "app.db"
    journal.clear(live)
    journal.write(live, ENTRY)
    journal.clear(live)
    journal.clear(live)
    assert journal.read(live) is None
    assert list(tmp_path.iterdir()) == []


async def test_a_progress_that_a_kill_has_left_without_its_entry_goes_with_the_next_holder(
    tmp_path: Path,
) -> None:
    live = tmp_path / "app.db"
    live.touch()
    journal.write_progress(live, Progress("/data/app.db.snapshot-1", 1795497300.25))
    assert await recover(live) is None
    assert os.listdir(tmp_path) == ["app.db"]


def test_every_name_of_a_database_leads_to_one_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    live = tmp_path / "data" / "app.db"
    live.touch()
    (tmp_path / "link.db").symlink_to(live)
    monkeypatch.chdir(tmp_path)
    journal.write(Path("link.db"), ENTRY)
    assert journal.read(live) == journal.read(Path("data/app.db")) == ENTRY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        json.dumps({"state": "migrating"}).encode(),
        *(
            json.dumps(
                {"state": "migrating", "snapshot": "s", "before": [], "after": [], "at": 1.0, **bad}
            ).encode()
            for bad in (
                {"state": "sleeping"},
                {"state": "kept"},
                {"state": ["migrating"]},
                {"snapshot": None},
                {"before": "a1"},
                {"after": [1]},
                {"at": "now"},
                {"at": True},
                {"at": 10**400},
                {"atomic": 1},
                {"tables": [["a"]]},
                {"at": float("nan")},
            )
        ),
    ],
)
def test_an_invalid_journal_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    live = tmp_path / "app.db"
    journal_path(live).write_bytes(content)
    with pytest.raises(ValueError, match=r"app\.db\.automigrator-journal\.json cannot be read"):
        journal.read(live)
    assert journal_path(live).read_bytes() == content


def test_an_unreadable_journal_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    live = tmp_path / "app.db"
    journal_path(live).mkdir()
    with pytest.raises(ValueError, match=r"app\.db\.automigrator-journal\.json cannot be read"):
        journal.read(live)


def test_a_field_that_another_release_adds_is_never_passed_over(tmp_path: Path) -> None:
    live = tmp_path / "app.db"
    journal.write(live, ENTRY)
    path = journal_path(live)
    path.write_text(json.dumps({**json.loads(path.read_text()), "encrypted_with": "k1"}))
    with pytest.raises(journal.JournalError, match="does not know what it says of encrypted_with"):
        journal.read(live)


def test_a_field_that_an_older_release_did_not_write_has_its_old_meaning(tmp_path: Path) -> None:
    live = tmp_path / "app.db"
    journal.write(live, ENTRY)
    path = journal_path(live)
    said = json.loads(path.read_text())
    del said["tables"]
    path.write_text(json.dumps(said))
    assert journal.read(live) == ENTRY


def test_a_half_written_entry_is_never_read(tmp_path: Path) -> None:
    live = tmp_path / "app.db"
    journal.write(live, ENTRY)
    path = journal_path(live)
    path.with_name(path.name + ".tmp").write_text('{"state": "migr')
    assert journal.read(live) == ENTRY
    journal.write(live, ENTRY)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.long
def test_a_writer_killed_at_any_moment_leaves_a_whole_entry(tmp_path: Path) -> None:
    live = tmp_path / "app.db"
    code = (
        "import sys; from pathlib import Path\n"
        "from automigrator.backends.sqlite import journal\n"
        "entry = journal.Entry('migrating', ('a',), ('b',), 's' * 5000, 1.0)\n"
        "while True:\n"
        "    journal.write(Path(sys.argv[1]), entry); print('.', flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(journal.__file__).parents[3])}
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(live)], env=environment, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.read(20)
            process.send_signal(signal.SIGKILL)
            process.stdout.read()
        entry = journal.read(live)
        assert entry is not None and len(entry.snapshot) == 5000
