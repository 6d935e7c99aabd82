"""The hooks a plugin may implement, and the marker that says it does."""

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
    """What a run asks of its plugins; each may be `def` or `async def`, with fewer arguments."""

    @hookspec
    def before_migrate(self, run: Run) -> None:
        """Prepare: pending is known, the lock is held, nothing is changed yet.

        A rehearsal, where there is one, has worked by then. Raising stops the migration as a
        failure of kind `hook`.
        """

    @hookspec
    def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        """Answer a failure; None passes it to the next plugin, raising ends the search."""

    @hookspec
    def after_migrate(self, run: Run, report: TargetReport) -> None:
        """Follow up on a committed migration while the lock is still held.

        Raising is noted in the report and undoes nothing.
        """

    @hookspec
    def on_event(self, event: Event) -> None:
        """Observe anything that happens; raising is logged and changes nothing."""
