"""How a start counts among those that failed in a row."""

from __future__ import annotations

from typing import Literal

from automigrator.backends.contract.record import FailedStarts, Record


class Start:
    """How this start counts among those that failed in a row at the same revisions."""

    def __init__(self) -> None:
        self.stage: Literal["not counted", "begun", "counted"] = "not counted"
        """`begun`: it was compared with those before it; `counted`: and written down as failed."""
        self.found: Record | None = None
        """The record of earlier leaders, as this one found it."""
        self.starts = FailedStarts()
        """Those that failed, this one included."""
        self.first = False
        """Whether the database was empty when the first of them began."""
