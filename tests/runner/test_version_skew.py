"""Code that is older than its database: refused, or started where that was declared to be safe."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from alembic.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from support.acting_strategies import Rebuilding
from support.alembic_projects import contents, heads, linear, query, revision

from automigrator import (
    ConfigurationError,
    Decision,
    FollowTimeoutError,
    MigrationError,
    Migrator,
    PendingError,
    Report,
    Target,
    hookimpl,
)
from automigrator.migrations.compatibility import declaration, works_with
from automigrator.migrations.history import History

pytestmark = pytest.mark.long(
    "postgresql",
    "exactly_when",
    "kill_after_the_last_commit",
    "that_waited_for_newer",
    "sqlite-version_table",
    "rebuilt_declares",
    "rollback_leaves",
    "stamp_leaves",
)

Make = Callable[..., Target]


def chain(n: int, floors: dict[int, str] | None = None) -> Callable[[Path], None]:
    """r1 to rN; those in `floors` declare the oldest revision whose code still works."""

    def write(folder: Path) -> None:
        linear(folder, n)
        for number, floor in (floors or {}).items():
            path = folder / f"r{number}_.py"
            text = path.read_text("utf-8")
            path.write_text(
                text.replace("\ndepends_on", f"\ncompatible_with = {floor!r}\ndepends_on"), "utf-8"
            )

    return write


@pytest.fixture
def old(make_target: Make, database_url: str) -> Make:
    """Code that knows r1 to r3."""
    made: list[Target] = []

    def make(kind: str = "async", **options: Any) -> Target:
        if not made:
            made.append(make_target(chain(3), kind=kind, folder="old"))
        return Target(database_url, made[0].config, **{"name": made[0].name, **options})

    return make


@pytest.fixture
def newer(make_target: Make, database_url: str) -> Callable[..., Any]:
    """Newer code, r1 to r5 unless said, has migrated the database."""

    async def migrate(revisions: Callable[[Path], None] | None = None, **options: Any) -> Target:
        target = make_target(revisions or chain(5), folder="new", **options)
        await Migrator(target, mode="migrate").run()
        return target

    return migrate


def everything(database_url: str, tmp_path: Path) -> Any:
    """All that a start on the database could change, the types of our schema included."""
    if make_url(database_url).get_backend_name() == "sqlite":
        files = {p.name for p in tmp_path.iterdir() if p.name.startswith("app.db")}
        return contents(database_url), files
    types = "select typname, obj_description(oid, 'pg_type') from pg_type order by oid"
    return contents(database_url), [tuple(row) for row in query(database_url, types)]


async def execute(database_url: str, sql: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(sql)
    await engine.dispose()


async def start(target: Target, **options: Any) -> Report:
    return await Migrator(target, mode="migrate", **options).run()


async def refused(target: Target, **options: Any) -> str:
    with pytest.raises(MigrationError) as caught:
        await start(target, **options)
    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.state) == ("ahead", "clean")
    return failure.message


async def test_older_code_is_refused_and_both_sides_are_named(
    old: Make, newer: Callable[..., Any], database_url: str
) -> None:
    await newer(version="2.0")
    before = contents(database_url)

    message = await refused(old(version="1.9"))

    assert "at r5, where version 2.0 brought it" in message
    assert "this code (version 1.9) does not know" in message
    assert "newest revision is r3" in message
    assert contents(database_url) == before


@pytest.mark.parametrize("kind", ["async", "version_table"])
async def test_older_code_that_is_to_serve_starts_with_a_warning_and_changes_nothing(
    kind: str,
    old: Make,
    newer: Callable[..., Any],
    database_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await newer(kind=kind)
    before = everything(database_url, tmp_path)

    report = await start(old(kind=kind, ahead="serve"))

    (target,) = report.targets
    assert report.outcome == "current"
    assert (target.before, target.after, target.attempts) == (("r5",), ("r5",), 0)
    assert "r5" in target.notes[0] and "r3" in target.notes[0]
    assert any(
        record.levelno == logging.WARNING and "r5" in record.getMessage()
        for record in caplog.records
    )
    assert everything(database_url, tmp_path) == before


@pytest.mark.long
async def test_serving_takes_no_lock(
    old: Make, newer: Callable[..., Any], database_url: str
) -> None:
    new = await newer()
    refusing = old(lock_timeout=0.1)

    class Holding:
        @hookimpl
        async def before_migrate(self, run: Any) -> None:
            """The lock is held by a leader that goes further while older code starts."""
            nonlocal outcome
            outcome = (await start(refusing, ahead="serve")).outcome

    outcome = ""
    versions = Path(new.config).parent / "migrations" / "versions"  # type: ignore[arg-type]
    revision(versions, "r6", "r5")
    await start(new, plugins=[Holding()])

    assert outcome == "current"


@pytest.mark.long
async def test_a_target_says_otherwise_than_its_migrator(
    old: Make, newer: Callable[..., Any]
) -> None:
    await newer()

    await refused(old(ahead="refuse"), ahead="serve")


def test_only_what_is_known_can_be_asked_for(make_target: Make, database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="ahead='downgrade'"):
        make_target(ahead="downgrade")
    with pytest.raises(ConfigurationError, match="ahead=None"):
        Migrator(make_target(folder="x"), ahead=None)  # type: ignore[arg-type]  # what is tested


@pytest.mark.long("sqlite-wait")
@pytest.mark.parametrize("mode", ["check", "wait"])
async def test_the_other_modes_and_looks_agree_with_a_run(
    mode: Any, old: Make, newer: Callable[..., Any]
) -> None:
    await newer()
    target = old(lock_timeout=0.1)
    with pytest.raises((PendingError, FollowTimeoutError), match="r5"):
        await Migrator(target, mode=mode).run()
    assert not (await Migrator(target).check()).current
    with pytest.raises(Exception, match="r5"):
        await Migrator(target).plan()

    serving = Migrator(target, mode=mode, ahead="serve")

    report = await serving.run()
    (status,) = (await serving.check()).targets
    (plan,) = await serving.plan()
    assert report.outcome == "current"
    assert status.current and status.heads == ("r5",) and status.pending == ()
    assert plan.revisions == () and plan.before == ("r5",)
    assert "r5" in report.targets[0].notes[0] == status.notes[0] == plan.notes[0]
    assert status.notes[0] in str(status) and plan.notes[0] in str(plan)


def two_branches(ours: Sequence[str], theirs: Sequence[str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for branch in (ours, theirs):
            for down, id in zip([None, *branch], branch, strict=False):
                revision(folder, id, down)

    return write


async def test_a_database_that_is_ahead_in_one_branch_and_behind_in_another_is_refused(
    make_target: Make, newer: Callable[..., Any], database_url: str
) -> None:
    await newer(two_branches(["a1"], ["b1", "b2", "b3"]))
    mine = make_target(two_branches(["a1", "a2", "a3"], ["b1"]), folder="old")
    before = contents(database_url)

    message = await refused(mine, ahead="serve")

    assert "lacks a3" in message and "b3" in message
    assert contents(database_url) == before


@pytest.mark.long
async def test_ahead_in_one_branch_and_level_in_another_is_served(
    make_target: Make, newer: Callable[..., Any]
) -> None:
    await newer(two_branches(["a1", "a2"], ["b1", "b2"]))
    mine = make_target(two_branches(["a1", "a2"], ["b1"]), folder="old")

    assert (await start(mine, ahead="serve")).outcome == "current"


async def test_older_code_starts_on_a_database_that_declares_itself_compatible(
    old: Make, newer: Callable[..., Any], database_url: str, tmp_path: Path
) -> None:
    await newer(chain(5, {4: "r3", 5: "r2"}), version="2.0")
    before = everything(database_url, tmp_path)

    report = await start(old(version="1.9"))

    assert report.outcome == "current"
    (note,) = report.targets[0].notes
    assert "newer (r5, where version 2.0 brought it)" in note
    assert "compatible with this code (version 1.9), as with all since r3" in note
    assert (await Migrator(old()).check()).current
    assert everything(database_url, tmp_path) == before


@pytest.mark.long("only the head", "its own", "sqlite-none", "sqlite-too new")
@pytest.mark.parametrize(
    "floors",
    [{5: "r3"}, {4: "r3"}, {4: "r4", 5: "r3"}, {4: "r3", 5: "r4"}, {}],
    ids=["only the head", "only the middle", "its own", "too new", "none"],
)
async def test_one_revision_that_needs_newer_code_is_enough_to_be_refused(
    floors: dict[int, str], old: Make, newer: Callable[..., Any]
) -> None:
    await newer(chain(5, floors))

    assert "newest revision is r3" in await refused(old())


async def test_code_of_another_branch_is_refused_whatever_the_floor_says(
    make_target: Make, newer: Callable[..., Any]
) -> None:
    await newer(chain(5, {4: "r3", 5: "r3"}))

    def fork(folder: Path) -> None:
        linear(folder, 3)
        revision(folder, "q4", "r3")

    mine = make_target(fork, folder="old")

    for ahead in ("refuse", "serve"):
        assert "lacks q4" in await refused(mine, ahead=ahead)


@pytest.mark.long
async def test_without_a_declaration_nothing_is_recorded(
    newer: Callable[..., Any], database_url: str, tmp_path: Path
) -> None:
    await newer()

    assert "works" not in str(everything(database_url, tmp_path)[1])


async def test_a_rollback_leaves_no_declaration_that_is_believed(
    old: Make, newer: Callable[..., Any], database_url: str
) -> None:
    new = await newer(chain(5, {4: "r3", 5: "r3"}))
    await Migrator(new).rollback("r4")

    await refused(old())

    await start(new)
    assert (await start(old())).outcome == "current"


async def test_a_stamp_leaves_no_declaration_that_is_believed(
    old: Make, newer: Callable[..., Any], database_url: str
) -> None:
    await newer(chain(5, {4: "r3", 5: "r3"}))
    await execute(database_url, "UPDATE alembic_version SET version_num = 'r4'")

    await refused(old())


@pytest.mark.long
async def test_newer_code_that_declares_nothing_leaves_no_declaration_that_is_believed(
    old: Make, newer: Callable[..., Any], make_target: Make
) -> None:
    await newer(chain(5, {4: "r3", 5: "r3"}))
    await start(make_target(chain(6), folder="newest"))

    await refused(old())


async def test_a_kill_after_the_last_commit_leaves_the_declaration(
    old: Make, make_target: Make, database_url: str
) -> None:
    new = make_target(chain(5, {4: "r3", 5: "r3"}), folder="new")
    program = f"""
import asyncio, os, signal
from automigrator import Migrator, Target, hookimpl

class Dies:
    @hookimpl
    def after_migrate(self, run, report):
        os.kill(os.getpid(), signal.SIGKILL)

target = Target({database_url!r}, {str(new.config)!r})
asyncio.run(Migrator(target, mode="migrate", plugins=[Dies()]).run())
"""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await child.wait() == -signal.SIGKILL
    assert heads(database_url) == {"r5"}

    assert (await start(old())).outcome == "current"


@pytest.mark.long
async def test_a_failed_migration_keeps_what_was_true_before_it(
    old: Make, newer: Callable[..., Any], make_target: Make
) -> None:
    await newer(chain(5, {4: "r3", 5: "r3"}))

    def failing(folder: Path) -> None:
        chain(5, {4: "r3", 5: "r3"})(folder)
        header = "compatible_with = 'r3'"
        revision(folder, "r6", "r5", upgrade="raise RuntimeError('no')", header=header)

    with pytest.raises(MigrationError):
        await start(make_target(failing, folder="newest"))

    assert (await start(old())).outcome == "current"


async def test_a_database_that_was_rebuilt_declares_anew(
    old: Make, newer: Callable[..., Any], make_target: Make, database_url: str
) -> None:
    await newer(chain(4, {4: "r3"}))

    def failing_once(folder: Path) -> None:
        chain(4, {4: "r3"})(folder)
        revision(
            folder,
            "r5",
            "r4",
            upgrade="""
            op.execute("INSERT INTO users (id, name) VALUES (1, 'in the way of the old row')")
            """,
            header="compatible_with = 'r3'",
        )

    target = make_target(failing_once, folder="newest")
    await execute(database_url, "INSERT INTO users (id, name) VALUES (1, 'a')")

    assert (await start(target, recovery=[Rebuilding()])).outcome == "recovered"
    assert (await start(old())).outcome == "current"


async def test_clearing_keeps_the_declaration_unless_it_is_named(
    old: Make, newer: Callable[..., Any]
) -> None:
    new = await newer(chain(5, {4: "r3", 5: "r3"}))

    await Migrator(new).clear()
    assert (await start(old())).outcome == "current"

    await Migrator(new).clear(declarations=True)
    await refused(old())


async def test_older_code_that_waited_for_newer_serves_and_leaves_its_record_alone(
    old: Make, make_target: Make, database_url: str
) -> None:
    waiting: list[asyncio.Task[Report]] = []

    class Overtakes:
        """Older code finds something pending, and waits while newer code goes further."""

        @hookimpl
        async def before_migrate(self, run: Any) -> None:
            older = Migrator(old(ahead="serve"), mode="migrate")
            events = older.events()
            waiting.append(asyncio.create_task(older.run()))
            async for event in events:
                if event.name == "waiting":
                    break

    def failing(folder: Path) -> None:
        linear(folder, 5)
        revision(folder, "r6", "r5", upgrade="raise RuntimeError('no')")

    await start(old(revision="r2"))
    new = make_target(failing, folder="new", kind="per_migration")
    with pytest.raises(MigrationError, match="r6"):
        await start(new, plugins=[Overtakes()])

    report = await waiting[0]
    (found,) = (await Migrator(new).doctor()).targets
    assert (report.outcome, report.targets[0].after) == ("current", ("r5",))
    assert "r5" in report.targets[0].notes[0]
    assert found.record is not None and "no" in found.record.failures[0]["message"]


@pytest.mark.long("sqlite-r5", "floor2")
@pytest.mark.parametrize("floor", ["nowhere", "r5", ("r1",)])
async def test_a_wrong_declaration_stops_the_migration_before_it_begins(
    floor: Any, make_target: Make, database_url: str
) -> None:
    target = make_target(chain(5, {4: floor}))

    with pytest.raises(MigrationError, match="compatible_with") as caught:
        await start(target)

    assert caught.value.report.targets[0].failures[0].kind == "history"
    assert heads(database_url) == set()


@pytest.mark.long("sqlite-serve")
@pytest.mark.parametrize("ahead", ["refuse", "serve"])
async def test_nothing_is_ever_downgraded_by_itself(
    ahead: Any, old: Make, newer: Callable[..., Any], database_url: str
) -> None:
    class Insists:
        @hookimpl
        def on_failure(self, run: Any, failure: Any) -> Decision:
            return Decision.RETRY

    new = await newer()
    before = contents(database_url)
    versions = Path(new.config).parent / "migrations" / "versions"  # type: ignore[arg-type]
    assert "drop_table" in (versions / "r5_.py").read_text("utf-8")  # there would be a way down

    # the newest code, told to be at an older revision, too
    for target in (old(ahead=ahead), Target(database_url, new.config, revision="r2")):
        try:
            await start(target, plugins=[Insists()])
        except MigrationError:
            assert ahead == "refuse" and target.revision == "heads"

    assert contents(database_url) == before


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], dict[int, int], set[int]]:
    """A random DAG by each revision's parents, floors, and what older code knows of it."""
    n = draw(st.integers(1, 8))
    parents: list[tuple[int, ...]] = []
    above: list[set[int]] = []
    for number in range(n):
        chosen = draw(st.sets(st.integers(0, number - 1), max_size=2)) if number else set()
        # Alembic takes no parent that another parent comes after
        chosen = {p for p in chosen if not any(p in above[q] - {q} for q in chosen)}
        parents.append(tuple(sorted(chosen)))
        above.append({number}.union(*(above[p] for p in chosen)))
    floors = {
        number: draw(st.sampled_from(sorted(above[number])))
        for number in range(n)
        if draw(st.booleans())
    }
    known = set().union(*(above[k] for k in draw(st.sets(st.integers(0, n - 1), min_size=1))))
    return parents, floors, known


@given(histories())
@settings(max_examples=150, deadline=None)
def test_older_code_is_served_exactly_when_every_newer_revision_declares_that_it_may(
    drawn: tuple[list[tuple[int, ...]], dict[int, int], set[int]],
) -> None:
    parents, floors, known = drawn
    with TemporaryDirectory() as folder:
        new = written(Path(folder) / "new", parents, floors, set(range(len(parents))))
        old = written(Path(folder) / "old", parents, floors, known)
        declared = declaration(new, new.heads, "1")
        assert declared is not None

        served = works_with(old, "heads", declared)

    newer = set(range(len(parents))) - known
    assert served == all(number in floors and floors[number] in known for number in newer)


def written(
    root: Path, parents: list[tuple[int, ...]], floors: dict[int, int], known: set[int]
) -> History:
    versions = root / "versions"
    for number in known:
        down = tuple(f"v{parent}" for parent in parents[number])
        header = f"compatible_with = 'v{floors[number]}'" if number in floors else ""
        revision(versions, f"v{number}", down or None, header=header)
    (root / "env.py").write_text("")
    config = Config()
    config.set_main_option("script_location", str(root))
    return History(config)
