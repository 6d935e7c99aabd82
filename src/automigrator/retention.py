"""Which copies are kept, by number and age; the newest always is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from automigrator.frozen import Frozen


class Limits(Frozen):
    """How many copies are kept, and for how long; false where neither is limited.

    `keep`: how many of the newest stay, from 1 up; default None: any number.
    `max_age`: a timedelta, or a number of days; default None: any age.
    Where both are given a copy stays where both let it. Raises ValueError.
    """

    keep: int | None
    """How many of the newest copies stay, from 1 up; None: any number."""
    max_age: timedelta | None
    """How old a copy may become; None: any age."""

    def __init__(self, keep: int | None = None, max_age: timedelta | float | None = None) -> None:
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
            raise ValueError(f"keep must be a whole number from 1 up or None, not {keep!r}")
        if isinstance(max_age, int | float) and not isinstance(max_age, bool):
            if not math.isfinite(max_age) or max_age > timedelta.max.days:
                raise ValueError(f"max_age must be days or a timedelta, not {max_age!r}")
            max_age = timedelta(days=max_age)
        if not (max_age is None or (isinstance(max_age, timedelta) and max_age > timedelta(0))):
            raise ValueError(f"max_age must be a timedelta or days above zero, not {max_age!r}")
        super().__init__(keep, max_age)

    def __bool__(self) -> bool:
        return self.keep is not None or self.max_age is not None

    def outdated(self, stamps: Sequence[str], now: datetime) -> list[str]:
        """The stamps of the copies to delete, oldest first; never the newest.

        A stamp begins with a UTC time such as `20260301T120000`; one that does not has no age.
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
    """The time that a stamp gives, in UTC; None where it gives none."""
    # %f takes the second digit of the seconds where there are no microseconds
    form = "%Y%m%dT%H%M%SZ" if len(stamp) == _WITHOUT_MICROSECONDS else "%Y%m%dT%H%M%S%fZ"
    with suppress(ValueError):
        return datetime.strptime(stamp, form).replace(tzinfo=UTC)
    return None


_WITHOUT_MICROSECONDS = len("20260301T070000Z")
"""Characters of a stamp that a person, or an early release, wrote."""


def is_future(stamp: str) -> bool:
    """Tell whether a stamp is later than any clock of ours says, by five minutes at least."""
    return _age(stamp, datetime.now(UTC)) < timedelta(minutes=-5)


def stamp() -> str:
    """A stamp for now, in UTC to the microsecond; stamps sort by time."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
