"""How many copies stay, and for how long: which may go, and never the newest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True, init=False)
class Limits:
    """The newest `keep` copies stay, without those older than `max_age`; None sets no limit.

    `max_age` may be given in days. False where there is no limit. Raises ValueError.
    """

    keep: int | None
    max_age: timedelta | None

    def __init__(self, keep: int | None = None, max_age: timedelta | float | None = None) -> None:
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
            raise ValueError(f"keep must be a whole number from 1 up or None, not {keep!r}")
        if isinstance(max_age, int | float) and not isinstance(max_age, bool):
            if not math.isfinite(max_age) or max_age > timedelta.max.days:
                raise ValueError(f"max_age must be days or a timedelta, not {max_age!r}")
            max_age = timedelta(days=max_age)
        if not (max_age is None or (isinstance(max_age, timedelta) and max_age > timedelta(0))):
            raise ValueError(f"max_age must be a timedelta or days above zero, not {max_age!r}")
        object.__setattr__(self, "keep", keep)
        object.__setattr__(self, "max_age", max_age)

    def __bool__(self) -> bool:
        return self.keep is not None or self.max_age is not None

    def outdated(self, stamps: Sequence[str], now: datetime) -> list[str]:
        """Those of the stamps that may go, oldest first; never the newest.

        A stamp begins with UTC as in `20260301T120000`; one that does not has no age.
        """
        older = sorted(stamps)[:-1]
        surplus = max(len(stamps) - self.keep, 0) if self.keep is not None else 0
        return [
            stamp
            for index, stamp in enumerate(older)
            if index < surplus or (self.max_age is not None and _age(stamp, now) > self.max_age)
        ]


def _age(stamp: str, now: datetime) -> timedelta:
    try:
        return now - datetime.strptime(stamp[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return timedelta(0)


def at_of(stamp: str) -> datetime | None:
    """When a copy was made, by the stamp in its name."""
    for form in ("%Y%m%dT%H%M%S%fZ", "%Y%m%dT%H%M%SZ"):
        try:
            return datetime.strptime(stamp, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def stamp() -> str:
    """A stamp that sorts by time: UTC to the microsecond."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
