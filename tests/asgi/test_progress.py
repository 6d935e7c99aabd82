"""What a page is told of real runs on SQLite files, while they go on and when they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.acting_strategies import Restoring
from support.alembic_projects import linear, revision
from support.leaders import leading
from support.notes_application import BROKEN, GOOD, HALF_WAY, Application

from automigrator import (
    Decision,
    Event,
    Migrator,
    Run,
    Target,
    hookimpl,
)
from automigrator.asgi.progress import Progress

Make = Callable[..., Target]
Told = dict[str, Any]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """A file alone: what is told does not depend on the database."""
    return sqlite_url


class Clock:
    """Seconds that go by when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Followed:
    """A migrator whose runs a Progress follows; `told` has what was told after each event."""

    def __init__(self, migrator: Migrator, *, details: bool = True) -> None:
        self.migrator, self._details = migrator, details
        self.waits = asyncio.Event()
        self.progress = Progress([each.name for each in migrator.targets])
        self.told: list[tuple[str, Told]] = []

    async def run(self) -> Told:
        """Migrate, and return what is told in the end."""
        progress, report, error = self.progress, None, None
        events = self.migrator.events()
        progress.enter("migrating")

        async def follow() -> None:
            async for event in events:
                progress.follow(event)
                if event.name == "waiting":
                    self.waits.set()
                self.told.append((event.name, progress.told(details=self._details)))

        following = asyncio.create_task(follow())
        try:
            report = await self.migrator.run()
        except Exception as raised:  # noqa: BLE001 - as the gate does
            error = raised
        await following
        progress.end(report, error)
        progress.enter("ready" if error is None else "failed")
        return self.at_the_end

    @property
    def at_the_end(self) -> Told:
        return self.progress.told(details=self._details)

    def after(self, name: str) -> list[Told]:
        """What was told after each event of this name."""
        return [told for event, told in self.told if event == name]


def states(target: Told) -> dict[str, str]:
    return {each["revision"]: each["state"] for each in target["revisions"]}


class Looks:
    """Takes part in a run, and does nothing."""

    @hookimpl
    def before_migrate(self, run: Run) -> None: ...


async def followed(target: Target, *recovery: Any, **options: Any) -> Followed:
    found = Followed(Migrator(target, mode="migrate", recovery=recovery, **options))
    await found.run()
    return found


class TestARunThatSucceeds:
    async def test_tells_each_revision_before_while_and_after_it_runs(
        self, make_target: Make
    ) -> None:
        found = await followed(make_target(linear, name="app"))
        (planned,) = found.after("planned")
        assert states(planned["targets"][0]) == dict.fromkeys(("r1", "r2", "r3"), "pending")
        assert (planned["phase"], planned["done"], planned["total"]) == ("migrating", 0, 3)
        second = found.after("revision-started")[1]
        assert states(second["targets"][0]) == {"r1": "done", "r2": "running", "r3": "pending"}
        assert second["targets"][0]["activity"] == "r2"
        assert [told["done"] for told in found.after("revision-done")] == [1, 2, 3]
        end = found.at_the_end
        (target,) = end["targets"]
        assert (end["phase"], end["done"], target["outcome"]) == ("ready", 3, "migrated")
        assert (target["phase"], target["activity"], target["failure"]) == ("ended", "", None)
        r2 = target["revisions"][1]
        assert (r2["down_revision"], r2["doc"]) == (["r1"], "r2") and r2["seconds"] > 0

    async def test_tells_what_it_is_at_between_the_revisions(self, make_target: Make) -> None:
        found = await followed(make_target(linear), plugins=[Looks()])

        def activity(name: str) -> set[str]:
            return {told["targets"][0]["activity"] for told in found.after(name)}

        assert activity("hook-started") == {"in before_migrate of Looks"}
        assert activity("attempt-started") == activity("revision-done") == {"running env.py"}

    async def test_with_nothing_to_do_has_no_steps(self, make_target: Make) -> None:
        target = make_target(linear)
        await Migrator(target, mode="migrate").run()
        end = (await followed(target)).at_the_end
        assert (end["done"], end["total"], end["targets"][0]["outcome"]) == (None, None, "current")

    async def test_tells_which_revisions_a_branch_and_a_merge_follow(
        self, make_target: Make
    ) -> None:
        def branchy(folder: Path) -> None:
            revision(folder, "r1", None)
            revision(folder, "left", "r1")
            revision(folder, "right", "r1")
            revision(folder, "merge", ("left", "right"))

        (target,) = (await followed(make_target(branchy))).at_the_end["targets"]
        found = {each["revision"]: set(each["down_revision"]) for each in target["revisions"]}
        assert found == {
            "r1": set(),
            "left": {"r1"},
            "right": {"r1"},
            "merge": {"left", "right"},
        }

    async def test_adds_up_its_targets_and_tells_whose_turn_it_is(
        self, make_target: Make, tmp_path: Path
    ) -> None:
        def url(name: str) -> str:
            return f"sqlite+aiosqlite:///{tmp_path / name}.db"

        targets = [make_target(linear, database=url(name), folder=name, name=name) for name in "ab"]
        found = Followed(Migrator(*targets, mode="migrate"))
        end = await found.run()
        assert (end["done"], end["total"]) == (6, 6)
        phases = [[each["phase"] for each in told["targets"]] for _, told in found.told]
        assert phases.count(["running", "queued"]) and phases.count(["ended", "running"])

    async def test_shows_a_part_of_a_long_history_around_the_revision_that_runs(
        self, make_target: Make
    ) -> None:
        def long(folder: Path) -> None:
            for n in range(1, 61):
                revision(folder, f"r{n}", f"r{n - 1}" if n > 1 else None)

        found = await followed(make_target(long))
        fortieth = found.after("revision-started")[39]["targets"][0]
        shown = [each["revision"] for each in fortieth["revisions"]]
        assert (shown[0], len(shown), fortieth["total"]) == ("r35", 15, 60)
        assert fortieth["before"] + len(shown) + fortieth["after"] == 60
        assert fortieth["before"] == 34 and states(fortieth)["r40"] == "running"


class TestARunThatFails:
    async def test_says_what_happened_what_is_left_and_what_to_do(self, notes: Application) -> None:
        notes.deploy(GOOD, BROKEN)
        end = (await followed(notes.target())).at_the_end
        (target,) = end["targets"]
        failure = target["failure"]
        assert (end["phase"], end["failed"], target["phase"]) == ("failed", "revision", "failed")
        assert (failure["kind"], failure["revision"], failure["state"]) == (
            "revision",
            "r3",
            "clean",
        )
        assert "absent" in failure["message"] and failure["advice"]
        assert failure["left"].startswith("clean (nothing of this attempt stayed")
        assert states(target) == {"r2": "pending", "r3": "failed"}
        assert target["strategies"] == ["no plugin decided what to do"]
        assert set(failure) == {"kind", "message", "revision", "state", "left", "advice"}

    async def test_keeps_the_revisions_that_were_committed(self, make_target: Make) -> None:
        def broken(folder: Path) -> None:
            linear(folder)
            revision(folder, "r4", "r3", upgrade=BROKEN)

        made = make_target(broken, kind="per_migration")
        (target,) = (await followed(made)).at_the_end["targets"]
        assert target["failure"]["state"] == "partial-at-boundary"
        kept = dict.fromkeys(("r1", "r2", "r3"), "done")
        assert states(target) == {**kept, "r4": "failed"}

    async def test_says_what_a_strategy_did_and_the_state_since(self, notes: Application) -> None:
        notes.deploy(GOOD, HALF_WAY)
        found = await followed(notes.target(), Restoring(Decision.ABORT))
        (target,) = found.at_the_end["targets"]
        told = "\n".join(target["strategies"])
        assert "taken in" in told and "put back from" in told
        assert "Restoring decided to abort" in told
        assert target["failure"]["left"].startswith("clean, at r1 (what the failure left was")
        assert states(target) == {"r2": "pending", "r3": "failed"}

    async def test_says_that_a_restore_was_made_where_nobody_lets_the_application_start(
        self, notes: Application
    ) -> None:
        notes.deploy(HALF_WAY)
        (target,) = (await followed(notes.target(), Restoring(None))).at_the_end["targets"]
        told = "\n".join(target["strategies"])
        assert "no plugin decided" not in told
        assert "the database was put back from " in told and "no plugin let the application" in told

    async def test_begins_anew_where_a_strategy_asks_for_another_attempt(
        self, notes: Application
    ) -> None:
        notes.deploy(BROKEN)

        class Repairs:
            @hookimpl
            def on_failure(self, run: Run) -> Decision:
                notes.execute("CREATE TABLE absent (x)")
                return Decision.RETRY

        found = await followed(notes.target(), plugins=[Repairs()])
        (failed,) = found.after("failed")
        assert states(failed["targets"][0]) == {"r2": "failed"}
        assert failed["targets"][0]["failure"]["revision"] == "r2"
        (target,) = found.at_the_end["targets"]
        assert (target["outcome"], target["failure"]) == ("recovered", None)
        assert states(target) == {"r2": "done"}

    async def test_before_any_target_says_why(self, make_target: Make) -> None:
        found = Followed(Migrator(make_target(linear), mode="check"))
        end = await found.run()
        assert end["reason"] == "migrations are needed; nothing was changed"
        assert (end["phase"], end["failed"], end["targets"][0]["failure"]) == (
            "failed",
            None,
            None,
        )


class TestARehearsal:
    async def test_is_told_and_counts_no_step(self, notes: Application) -> None:
        notes.deploy(GOOD)
        found = await followed(notes.target(rehearse=True))
        copied, real = found.after("revision-started")
        assert (copied["done"], states(copied["targets"][0])) == (0, {"r2": "pending"})
        assert copied["targets"][0]["activity"] == "r2, on a copy"
        assert states(real["targets"][0]) == {"r2": "running"}
        assert found.at_the_end["targets"][0]["strategies"][0].startswith("rehearsed on a copy")


@pytest.mark.parametrize("mode", ["migrate", "wait"])
async def test_a_follower_shows_how_far_the_leader_is(mode: Any, make_target: Make) -> None:
    target = make_target(linear)
    found = Followed(Migrator(target, mode=mode))
    async with leading(target, "3/7 r3"):
        run = asyncio.create_task(found.run())
        await found.waits.wait()
    end = await run
    told = found.after("waiting")[0]
    (waits_for,) = told["targets"]
    assert (told["waiting"], told["done"], told["total"]) == (True, 2, 7)
    assert waits_for["phase"] == "waiting" and "3/7 r3" in waits_for["activity"]
    assert (end["waiting"], end["targets"][0]["outcome"]) == (False, "current")


class TestThePublicPart:
    async def test_names_nothing_while_a_run_goes_on_or_when_it_has_failed(
        self, notes: Application
    ) -> None:
        notes.deploy(GOOD, BROKEN)
        found = Followed(Migrator(notes.target(name="sEcret"), mode="migrate"), details=False)
        end = await found.run()
        keys = ["phase", "outcome", "elapsed_s", "done", "total", "waiting", "statement"]
        keys += ["retry_in_s", "failed", "details"]
        for _, told in found.told:
            assert list(told) == keys
            assert {type(each) for each in told.values()} <= {str, float, int, bool, type(None)}
        assert end == {**end, "phase": "failed", "failed": "revision", "done": 0, "total": 2}
        assert "sEcret" not in str(found.told) and "absent" not in str(end)


class TestThePhases:
    def test_the_time_goes_on_until_the_application_is_ready_or_has_failed(self) -> None:
        clock = Clock()
        progress = Progress(["app"], clock)

        def seconds() -> float:
            clock.now += 2
            return float(progress.told(details=False)["elapsed_s"])

        assert seconds() == 2.0
        progress.enter("migrating")
        assert seconds() == 4.0
        progress.enter("application")
        assert seconds() == 6.0
        progress.enter("ready")
        assert (seconds(), seconds()) == (6.0, 6.0)

    def test_a_failure_says_when_it_is_tried_again_and_that_try_begins_anew(self) -> None:
        clock = Clock()
        progress = Progress(["app"], clock)
        progress.enter("migrating")
        progress.enter("failed", reason="no\x1b[31m way", retry_in_s=30)
        clock.now += 2
        told = progress.told(details=True)
        assert (told["retry_in_s"], told["reason"]) == (28.0, "no\\x1b[31m way")
        progress.enter("migrating")
        told = progress.told(details=True)
        assert (told["retry_in_s"], told["reason"], told["elapsed_s"]) == (None, "", 0.0)

    async def test_what_is_pending_in_development_is_shown_before_the_button_is_pressed(
        self, make_target: Make
    ) -> None:
        migrator = Migrator(make_target(linear, name="app"), mode="migrate")
        progress = Progress(["app"])
        progress.enter("pending")
        for plan in await migrator.plan():
            progress.expect(plan.name, plan.revisions)
        told = progress.told(details=True)
        assert (told["phase"], told["done"], told["total"]) == ("pending", 0, 3)
        assert list(states(told["targets"][0])) == ["r1", "r2", "r3"]
        progress.enter("migrating")
        assert progress.told(details=False)["total"] == 3

    async def test_a_reader_waits_for_a_change_and_not_for_one_that_it_has_missed(self) -> None:
        progress = Progress(["app"])
        before = progress.version
        waiting = asyncio.create_task(progress.changed(before))
        await asyncio.sleep(0)
        assert not waiting.done()
        progress.enter("migrating")
        await waiting
        await progress.changed(before)
        assert progress.version > before


def test_text_of_others_is_one_line_without_control_characters() -> None:
    progress = Progress(["app"])
    docs = [{"revision": "a\u202e", "down_revision": ["b\x00"], "doc": "one\ntwo\x1b[2J"}]
    progress.follow(Event("planned", "app", {"revisions": docs}))
    (told,) = progress.told(details=True)["targets"][0]["revisions"]
    assert (told["revision"], told["down_revision"], told["doc"]) == (
        "a\\u202e",
        ["b\\x00"],
        "one two\\x1b[2J",
    )


def test_the_server_s_word_about_a_statement_is_its_percentage() -> None:
    progress = Progress(["app"])
    progress.follow(Event("target-started", "app", {"database": "postgresql", "url": ""}))
    progress.follow(Event("revision-started", "app", {"revision": "r1", "index": 1, "total": 1}))
    progress.follow(
        Event("progress", "app", {"phase": "CREATE INDEX: building", "done": 2, "total": 5})
    )
    assert progress.told(details=False)["statement"] == 40
    (target,) = progress.told(details=True)["targets"]
    assert target["activity"] == "r1, CREATE INDEX: building, 40 %"
