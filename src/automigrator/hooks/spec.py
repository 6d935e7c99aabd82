"""The hooks that a plugin may implement, and the marker of its implementations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from automigrator.events.event import Event
    from automigrator.failure import Decision, Failure
    from automigrator.hooks.context import Run
    from automigrator.report import TargetReport

PROJECT = "automigrator"

hookspec = pluggy.HookspecMarker(PROJECT)

hookimpl = pluggy.HookimplMarker(PROJECT)


class Hookspecs:
    """The hooks; a plugin implements any of them, with `def` or `async def` and fewer arguments."""

    @hookspec
    def before_migrate(self, run: Run) -> None:
        """Prepare for a migration; nothing is changed yet, the lock is held.

        Called once a target and run; `run.pending` holds the revisions. A rehearsal, where
        there is one, has worked by then. An error stops the migration, as a failure of kind `hook`.
        """

    @hookspec
    def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        """Answer a failure of an attempt.

        Return RETRY, CONTINUE or ABORT; None passes the failure to the next plugin. So does an
        error, which is noted, unless the plugin had begun to act on the database: that ends the
        search.
        """

    @hookspec
    def after_migrate(self, run: Run, report: TargetReport) -> None:
        """Follow up on a committed migration; the lock is still held.

        An error is noted in the report, and undoes nothing.
        """

    @hookspec
    def after_run(self, run: Run, report: TargetReport) -> None:
        """Follow up on a target's part of a run, however it ended; the lock is released.

        Called for every target that was begun, also where nothing was to do, by `rollback()` and
        after a cancellation: then `report.outcome` is `cancelled`, and a hook has 2 seconds. It
        cannot change the outcome; an error is noted in the report.
        """

    @hookspec
    def on_event(self, event: Event) -> None:
        """Observe an event of the run; an error is logged, and changes nothing."""
