"""What is read back may be anybody's: it is an answer, however long, deep or large."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.alembic_projects import linear, revision
from support.postgres_server import Server

from automigrator import Failure, MigrationError, Migrator, Target
from automigrator.backends.access import Access
from automigrator.backends.contract import declarations, record
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.journal import Repairs
from automigrator.backends.contract.record import FailedStarts, Record
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import journal as postgresql
from automigrator.backends.postgresql import notes
from automigrator.backends.postgresql.locking import advisory
from automigrator.backends.sqlite import journal as sqlite
from automigrator.backends.sqlite import lock_files
from automigrator.frozen import Frozen
from automigrator.support import json_object

GIGABYTES = 10 * 2**30
DAY_S = 24 * 3600.0

BAD = {
    "deep": "[" * 100_000,
    "deep, and whole": "[" * 900 + "]" * 900,
    "deep within": '{"plan": ' + '{"a": ' * 50 + "1" + "}" * 51,
    "long": '"' + "x" * json_object.LIMIT + '"',
    "a long text": json.dumps({"plan": "x" * 100_000}),
    "infinite": '{"at": 1e999}',
    "not a number": '{"at": NaN}',
    "Infinity": '{"at": -Infinity}',
    "large": '{"at": ' + "9" * 400 + "}",
    "very large": '{"at": ' + "9" * 400_000 + "}",
    "no JSON": "{",
    "nothing": "",
}


@pytest.mark.parametrize("how", BAD)
def test_a_text_that_is_none_of_ours_is_refused(how: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_object.parsed(BAD[how])
    assert record.loaded(BAD[how]) is None
    assert declarations.loaded(BAD[how]) == ()
    assert postgresql._loaded(postgresql.DumpEntry, BAD[how]) is None


def test_the_longest_text_costs_little_time() -> None:
    text = "[" + "0," * (json_object.LIMIT // 2 - 2) + "0]"
    began = time.process_time()
    json_object.parsed(text)
    assert time.process_time() - began < 2


def test_what_we_write_ourselves_is_never_too_long() -> None:
    failure = Failure("revision", "\U0001f600" * 5000, statement="\U0001f600" * 2000)
    failures = (failure._replace(debris=("x" * 63,) * 1000).to_dict(),) * 5
    text = Record("p", "failed", "me", failures).dumped()
    assert record.loaded(text) is not None
    revisions = tuple(f"{number:012x}" for number in range(20_000))
    declared = (Declaration(("a",), (), revisions), Declaration(("b",), (), revisions))
    assert declarations.loaded(declarations.dumped(declared)) == declared


WHOLE = Record("p", "failed", "me", starts=FailedStarts(3, 1.0, 2.0), at=2.0)


@pytest.mark.parametrize(
    "starts", [{"count": -1}, {"count": 10**30}, {"last": -1.0}, {"last": 1e300}, {"since": 9e12}]
)
def test_a_count_or_a_time_that_is_none_makes_no_record(starts: dict[str, Any]) -> None:
    data = json.loads(WHOLE.dumped())
    assert record.loaded(json.dumps(data)) == WHOLE
    data["starts"] |= starts
    assert record.loaded(json.dumps(data)) is None


@pytest.mark.parametrize("kind", [FailedStarts, Repairs])
def test_less_than_no_start_is_refused(kind: type[Frozen]) -> None:
    with pytest.raises(ValueError, match="count is -1"):
        kind(-1)


# Files


@pytest.fixture
def live(sqlite_url: str) -> Path:
    return Path(make_url(sqlite_url).database or "")


def endless(file: Path) -> None:
    file.touch()
    os.truncate(file, GIGABYTES)


@pytest.fixture(params=["endless", *BAD])
def bad_file(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    if request.param == "endless":
        return endless
    return lambda file: file.write_text(BAD[request.param])


@pytest.fixture
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


NAMES = (lock_files.RECORD, lock_files.DECLARED, lock_files.LOCK)


@pytest.mark.usefixtures("little_memory")
def test_a_file_beside_the_database_is_read_as_far_as_it_may_be_ours(
    live: Path, bad_file: Callable[[Path], object]
) -> None:
    for name in NAMES:
        bad_file(lock_files.path_of(live, name))
    bad_file(sqlite.journal_path(live))
    bad_file(sqlite.progress_path(live))
    assert lock_files.record_of(live) is None
    assert lock_files.declarations_of(live) == ()
    assert lock_files.told_of(live) == "another process"
    with pytest.raises(sqlite.JournalError, match="the database was not touched") as info:
        sqlite.read(live)
    assert len(str(info.value)) < 1000
    entry = sqlite.Entry("migrating", (), (), "/copy", 1.0)
    assert sqlite.progress_of(live, entry) is None


@pytest.mark.parametrize("at", [-1, 1e300, 9e12])
def test_a_journal_of_no_time_is_refused_in_words(live: Path, at: float) -> None:
    entry = sqlite.Entry("migrating", (), (), "/copy", 1.0)
    data = json.loads(json_object.dumped(entry)) | {"at": at}
    sqlite.journal_path(live).write_text(json.dumps(data))
    with pytest.raises(sqlite.JournalError, match="at is|too large"):
        sqlite.read(live)


async def failed(target: Target) -> MigrationError:
    with pytest.raises(MigrationError) as info:
        await Migrator(target, mode="migrate", max_failed_starts=1).run()
    return info.value


async def test_a_bad_record_stops_no_start_and_the_count_begins_anew(
    live: Path, make_target: Any, sqlite_url: str
) -> None:
    target = make_target(
        lambda folder: revision(folder, "r1", None, upgrade="raise RuntimeError"),
        database=sqlite_url,
    )
    assert (await failed(target)).report.targets[0].attempts == 1
    assert (await failed(target)).report.targets[0].attempts == 0
    lock_files.path_of(live, lock_files.RECORD).write_text(BAD["deep"])
    report = (await failed(target)).report.targets[0]
    assert (report.attempts, report.failed_starts) == (1, 1)


async def test_a_planted_count_holds_a_start_up_for_32_days_at_most(
    live: Path, make_target: Any, sqlite_url: str
) -> None:
    target = make_target(
        lambda folder: revision(folder, "r1", None, upgrade="raise RuntimeError"),
        database=sqlite_url,
    )
    await failed(target)
    found = lock_files.record_of(live)
    assert found is not None
    now, path = time.time(), lock_files.path_of(live, lock_files.RECORD)
    for age_s, attempts in ((0.0, 0), (31 * DAY_S, 0), (33 * DAY_S, 1), (-65 * DAY_S, 1)):
        starts = FailedStarts(99, 1.0, now - age_s)
        path.write_text(found._replace(starts=starts).dumped())
        assert (await failed(target)).report.targets[0].attempts == attempts, age_s


# The server's comments


@pytest.mark.long
async def test_a_comment_of_megabytes_is_cut_by_the_server(
    make_target: Any, postgres_url: str, postgres_server: Server
) -> None:
    target = make_target(linear, database=postgres_url)
    name = make_url(postgres_url).database
    await Migrator(target, mode="migrate").run()
    key = keys_of(name or "")
    for statement in (
        *(f"drop domain if exists automigrator.{kind}_{key:016x}" for kind in KINDS),
        *(f"create domain automigrator.{kind}_{key:016x} as text" for kind in KINDS),
        *(planted(f"domain automigrator.{kind}_{key:016x}") for kind in KINDS),
    ):
        postgres_server.execute(statement, database=name)
    text = await notes.read_note(Access(target), "last", key)
    assert text is not None and len(text) == json_object.LIMIT + 1
    assert (await Migrator(target).doctor()).healthy
    assert (await Migrator(target, mode="migrate").run()).outcome == "current"


KINDS = ("last", "works_with", "dump")


def keys_of(name: str) -> int:
    return advisory.keys(name, [VersionTable()])[0] % 2**64


def planted(what: str) -> str:
    """A comment of 5 MB that nests a million lists."""
    text = "repeat('[', 1000000) || repeat('x', 4000000)"
    return f"do $$ begin execute format('comment on {what} is %L', {text}); end $$"
