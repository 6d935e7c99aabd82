"""What is stored for other releases, to the letter: a rolling deployment has two of them."""

from __future__ import annotations

import json

from automigrator.backends.contract import declarations
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.record import FailedStarts, Record, loaded
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import journal as postgresql
from automigrator.backends.postgresql.names import OPEN
from automigrator.backends.sqlite import journal as sqlite
from automigrator.support import json_object

TABLE = VersionTable()


def test_the_journal_beside_a_sqlite_file() -> None:
    entry = sqlite.Entry("migrating", ("a",), ("b",), "/c", 1.5, ("v",), True)
    assert json.loads(json_object.dumped(entry)) == {
        "state": "migrating",
        "snapshot": "/c",
        "before": ["a"],
        "after": ["b"],
        "at": 1.5,
        "tables": ["v"],
        "atomic": True,
    }


def test_how_far_the_migration_of_that_journal_came() -> None:
    progress = sqlite.Progress("/c", 1.5, ("b",), True, (7, 8), digest="dg")
    said = {
        "snapshot": "/c",
        "at": 1.5,
        "steps": ["b"],
        "committed": True,
        "inodes": [7, 8],
        "repairs": {"count": 0, "last": 0.0, "code": ""},
        "digest": "dg",
    }
    assert json.loads(json_object.dumped(progress)) == said
    # a release that knows less passes over the rest; this one knew no digest
    assert json_object.read(sqlite.Progress, {**said, "later": 1}) == progress
    del said["digest"]
    assert json_object.read(sqlite.Progress, said) == progress._replace(digest="")


def test_the_journal_of_a_template_copy() -> None:
    tables = (VersionTable("v", "s"), TABLE)
    entry = postgresql.CopyEntry(
        "migrating", ("a",), ("b",), tables=tables, disconnect_others=True, atomic=True, key=7
    )
    assert json.loads(entry.dumped()) == {
        "automigrator": {
            "state": "migrating",
            "before": ["a"],
            "after": ["b"],
            "tables": [
                {"name": "v", "schema": "s"},
                {"name": "alembic_version", "schema": None},
            ],
            "disconnect_others": True,
            "steps": None,
            "committed": None,
            "transactions": [],
            "repairs": {"count": 0, "last": 0.0, "code": ""},
            "atomic": True,
            "key": 7,
            "oid": None,
        }
    }
    assert postgresql._loaded(postgresql.CopyEntry, entry.dumped()) == entry


def test_a_restore_by_hand_has_a_journal_that_ends_where_it_begins() -> None:
    """Of no key of its own: an earlier release follows it, too."""
    entry = postgresql.CopyEntry("restoring", ("a",), ("a",), tables=(TABLE,), oid=7)
    assert entry.by_hand and not entry._replace(after=("b",)).by_hand
    assert not entry._replace(state="migrating").by_hand


def test_a_dump_is_described_by_its_journal_in_a_file_beside_it() -> None:
    entry = postgresql.DumpEntry(
        *("migrating", ("a",), ("b",)), tables=(TABLE,), path="/d", host="h", server=15, size=7
    )
    assert postgresql.described(entry.dumped().encode()) == entry
    assert postgresql.described(b"{}") is None is postgresql.described(b"\xff")


def test_an_open_journal_is_found_by_how_its_text_begins() -> None:
    for state in ("migrating", "restoring"):
        entry = postgresql.CopyEntry(state, ("a",), ("b",), tables=(TABLE,))  # type: ignore[arg-type]
        assert entry.dumped().startswith(OPEN[state == "restoring"].removesuffix("%"))


def test_the_journal_of_a_dump() -> None:
    entry = postgresql.DumpEntry(
        "migrating",
        ("a",),
        ("b",),
        tables=(TABLE,),
        path="/d",
        host="h",
        server=15,
        size=3,
        digest="dg",
        catalog="c",
        shape="sh",
        rows="r",
        values="v",
        extensions=(("x", "y", "1"),),
    )
    assert json.loads(entry.dumped()) == {
        "automigrator": {
            "state": "migrating",
            "before": ["a"],
            "after": ["b"],
            "tables": [{"name": "alembic_version", "schema": None}],
            "path": "/d",
            "host": "h",
            "server": 15,
            "disconnect_others": False,
            "steps": None,
            "committed": None,
            "transactions": [],
            "repairs": {"count": 0, "last": 0.0, "code": ""},
            "size": 3,
            "digest": "dg",
            "catalog": "c",
            "shape": "sh",
            "rows": "r",
            "values": "v",
            "extensions": [["x", "y", "1"]],
        }
    }
    assert postgresql._loaded(postgresql.DumpEntry, entry.dumped()) == entry


def test_the_record_of_a_leader() -> None:
    starts = FailedStarts(1, 2.0, 3.0)
    failure = {"kind": "revision", "message": "no", "state": "clean"}
    record = Record("p", "failed", "l", (failure,), "clean", starts, 4.0)
    assert record.dumped() == (
        '{"plan": "p", "outcome": "failed", "leader": "l", "failures": '
        '[{"kind": "revision", "message": "no", "state": "clean"}], '
        '"state": "clean", "starts": {"count": 1, "since": 2.0, "last": 3.0}, "at": 4.0, '
        '"first": false, "damaged": false, "start": ""}'
    )
    assert loaded(record.dumped()) == record
    data = json.loads(record.dumped())
    later = {"first", "damaged", "start"}  # written by no release before 0.1
    parts = [(data, key) for key in data if key not in later] + [
        (data["starts"], key) for key in data["starts"]
    ]
    for part, key in parts:
        value = part.pop(key)
        assert loaded(json.dumps(data)) is None, key  # a default would be more than it says
        part[key] = value


def test_what_a_database_declares() -> None:
    declared = (Declaration(("h",), ("f",), ("r",), "1"),)
    text = '[{"heads": ["h"], "floors": ["f"], "revisions": ["r"], "version": "1"}]'
    assert declarations.dumped(declared) == text
    assert declarations.loaded(text) == declared
