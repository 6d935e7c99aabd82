"""Asks a strategy about every failure there can be, under the lock and on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import get_args

from automigrator.errors import HookError
from automigrator.failure import KINDS, Blames, Failure, FailureKind, State
from automigrator.hooks.context import Run
from automigrator.hooks.effects import acts_on_python_errors, effect_of, may_answer
from automigrator.hooks.registry import Hooks
from automigrator.migrator import Migrator
from automigrator.runner.session import opened
from automigrator.testing.conformance import FREE_S, TABLE, case, same, silent
from automigrator.testing.contents import contents
from automigrator.testing.strategies.application import GOOD, OLD, Application
from automigrator.testing.strategies.harness import Act, beyond, watch
from automigrator.testing.strategies.interface import Face

FAILURES = tuple(
    Failure(kind, f"a {kind} failure", state=state, blames=blames)
    for kind in get_args(FailureKind)
    for state in get_args(State)
    for blames in get_args(Blames)
)

assert {failure.kind for failure in FAILURES} == KINDS


class Answers(Face):
    """Every kind of failure in every state, one after another."""

    __test__ = False

    @case
    async def test_every_failure_is_answered_within_its_effect(self) -> None:
        """With a Decision or None, no exception, and no act that it does not declare."""
        await self._asked(locked=True)

    @case
    async def test_without_the_lock_it_touches_nothing(self) -> None:
        """Where the database is out of reach, or another process leads, it is asked as well."""
        if effect_of(self.make()) == "none":
            await self._asked(locked=False)

    async def _asked(self, *, locked: bool) -> None:
        application = Application(self.folder / "application", self.fresh.url())
        await application.start_afresh()
        application.deploy(GOOD)
        strategy = self.make()
        effect, by_code = effect_of(strategy), acts_on_python_errors(strategy)
        hooks = Hooks((), [(self.name or type(strategy).__qualname__, strategy)])
        acts: list[Act] = []
        wrong: list[str] = []
        async with _a_run(application, locked=locked) as run:
            watch(run, acts)
            for failure in FAILURES:
                if not may_answer(effect, failure, python_errors=by_code):
                    continue
                run.failure = failure
                for impl in hooks.impls("on_failure"):
                    try:
                        with run.acting(effect, python_errors=by_code):
                            await hooks.call(impl, run=run, failure=failure)
                    except HookError as error:
                        wrong.append(f"{failure.kind}, {failure.state}: {error}")
        wrong += beyond(acts, strategy)
        assert not wrong, "asked about every failure, it gave\n" + "\n".join(wrong)
        if effect != "discarding":
            same(await contents(application.url), OLD, "it changed the database when asked")


class _Asking(Migrator):
    """Lends a run under the lock, as `on_failure` gets it, without a migration."""

    @asynccontextmanager
    async def lent(self, *, locked: bool) -> AsyncIterator[Run]:
        (target,) = self.targets
        async with opened(target) as session, self._state(session) as state:
            run, backend = state.run, state.session.backend
            history = await state.session.history()
            steps = history.steps(target.revision, ("r1",))
            run.before, run.wanted, run.tables = ("r1",), ("r2",), (TABLE,)
            run.describe = partial(history.describe, history.ids(steps))
            run.attempt, run.transactional = 1, True
            if not locked:
                yield run
                return
            async with backend.lock([TABLE], FREE_S, silent) as hold:
                state.hold = run.hold = hold
                yield run
                await hold.close_journal()


@asynccontextmanager
async def _a_run(application: Application, *, locked: bool) -> AsyncIterator[Run]:
    async with _Asking(application.target(), mode="migrate").lent(locked=locked) as run:
        yield run
