"""Asks the plugins what to do about a failure, and holds them to what they declared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from automigrator.errors import HookError
from automigrator.failure import Decision, Failure
from automigrator.hooks.calls import Around
from automigrator.hooks.context import Run
from automigrator.hooks.effects import (
    DISCARDABLE,
    acts_on_python_errors,
    effect_of,
    may_answer,
)
from automigrator.hooks.registry import Hooks

MOST_ATTEMPTS = 3

_NOT_OF_DATA = {
    "data": "it does not act on this failure",
    "code": "the revision's own code failed; the database did not say that its data or schema are "
    "in the way. A strategy with python_errors=True is asked then, too",
    "surroundings": "the database did not say that its data or schema are in the way of the "
    "revision, so that a fresh one might fail as well, or not be needed",
}


@dataclass(slots=True, eq=False, repr=False)
class Decisions:
    """The decisions of one target's plugins over its whole run; plugins keep no state of their own.

    A strategy that acts on data is granted one RETRY, and a discarding one acts once.
    """

    run: Run
    allow_partial: bool
    look_again: Callable[[Failure], Awaitable[Failure]]
    """Reads anew what state the database is in after a plugin acted."""
    hooks: Hooks
    around: Around
    journal_open: Callable[[], bool] = lambda: False
    """Whether a later start may undo what is in the database now."""
    granted: set[int] = field(default_factory=set)
    acted: set[int] = field(default_factory=set)

    async def decide(self, failure: Failure) -> tuple[Decision | None, str]:
        """Return the first Decision and the plugin that made it; None when all passed.

        `run.failure` is what is left to answer for: a restore in between makes it clean.
        """
        run = self.run
        run.failure = failure
        for impl in self.hooks.impls("on_failure"):
            effect = effect_of(impl.plugin)
            key = id(impl.plugin)
            by_code = acts_on_python_errors(impl.plugin)
            if effect != "none" and not run.locked:
                continue
            if run.rollback and effect != "reverting":
                continue
            if not may_answer(effect, run.failure, python_errors=by_code):
                if run.failure.kind in DISCARDABLE and not run.stopped:
                    run.note(f"{impl.blame} was not asked: {_NOT_OF_DATA[run.failure.blames]}")
                continue
            if effect == "discarding" and (run.stopped or key in self.acted):
                continue
            if effect == "discarding" and run.attempt >= MOST_ATTEMPTS:
                run.note(f"{impl.blame} was not asked: no attempt is left to follow it")
                continue
            if effect == "reverting" and run.failure.state == "unknown":
                run.failure = await self.look_again(run.failure)
            rebuilt, acts, tried = run.rebuilt, run.acts.count(), run.acts.tried()
            try:
                with run.acting(effect, python_errors=by_code):
                    answer = await self.hooks.call(impl, self.around, run=run, failure=run.failure)
            except HookError as error:
                run.failure = await self.look_again(run.failure)
                if run.acts.tried() != tried:
                    # never from a restore that is half done to a purge
                    run.notes.append(f"{error}; it had begun to act: no further plugin was asked")
                    return Decision.ABORT, impl.blame
                run.notes.append(f"{error}; it had not acted: the next plugin was asked")
                continue
            if run.rebuilt and not rebuilt:
                self.acted.add(key)
            if run.acts.count() != acts or effect == "reverting":
                run.failure = await self.look_again(run.failure)
            decision = self.checked(answer, impl.blame, key if effect != "none" else None)
            if decision is not None:
                return decision, impl.blame
        return None, ""

    def checked(self, answer: object, blame: str, key: int | None = None) -> Decision | None:
        """Return the answer, or None with a note where the core does not follow it."""
        run = self.run
        assert run.failure is not None
        if run.rollback:
            return None  # whoever asked for it decides what follows
        if answer is Decision.RETRY:
            if run.stopped:
                run.note(f"{blame} asked for another attempt {run.stopped}")
                return None
            if run.attempt >= MOST_ATTEMPTS:
                run.note(f"{blame} asked for another attempt after {run.attempt}; there is none")
                return None
            if key in self.granted:
                run.note(f"{blame} asked for a second RETRY; a strategy that acts is granted one")
                return None
            if key is not None:
                self.granted.add(key)
        why_not = ""
        if answer is Decision.CONTINUE and self.journal_open():
            why_not = (
                "is not followed while a journal is open: a later start undoes that migration, and "
                "with it all that the application would write"
            )
        elif answer is Decision.CONTINUE and run.failure.state != "clean":
            left = run.failure.state
            how = "it is not known what stayed in the database" if left == "unknown" else ""
            how = how or f"the database is {left}"
            needs = f"needs Migrator(allow_partial=True) as {how}"
            why_not = needs if not self.allow_partial else ""
        if why_not:
            run.note(f"{blame} answered CONTINUE, which {why_not}")
            return None
        return answer if isinstance(answer, Decision) else None
