"""What the rehearsals of one target's part of a run have found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a start with nothing to do needs none of it
    from automigrator.measurement import Measurement


@dataclass(slots=True, eq=False)
class Rehearsals:
    """The rehearsals so far, and what follows from them."""

    passed: str = ""
    """The plan whose rehearsal has passed."""
    seconds: float | None = None
    """Seconds that all rehearsals took; None where there was none."""
    measurement: Measurement | None = None
    """What the last one measured."""
    deferred: tuple[str, ...] = ()
    """The revisions of the plan that this run leaves to a later start."""
    why: str = ""
    """Why it does so."""

    def told(self) -> dict[str, Any]:
        """The fields of a report that are about rehearsals."""
        return {
            "rehearsed_s": self.seconds,
            "rehearsal": self.measurement,
            "deferred": self.deferred,
        }
