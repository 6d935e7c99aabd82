"""How a rehearsal makes its copy of a database, and what it allows the revisions to cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

from automigrator.errors import ConfigurationError
from automigrator.frozen import Frozen

CopiedBy = Literal["auto", "template", "dump"]


class Rehearsal(Frozen):
    """`rehearse=Rehearsal(...)` where `rehearse=True` is not enough.

    `copy`: how a PostgreSQL database is copied, `"template"` or `"dump"` (pg_dump and pg_restore);
    default `"auto"`: by template where nobody else is connected, else by dump.
    `disconnect_others`: end the sessions that a template copy finds in its way; default False.
    `binaries`: the folder of pg_dump and pg_restore; default: searched for.
    `max_block`: seconds that others may wait for a lock; default None: no limit.
    `max_time`: seconds that the revisions may take together; default None: no limit.
    `max_growth`: bytes that the database may grow by; default None: no limit.
    `defer`: above a limit, apply what comes before the revision, and leave that one and the rest to
    a later start; default False: nothing is changed.
    Raises ConfigurationError.
    """

    copy: CopiedBy = "auto"
    disconnect_others: bool = False
    binaries: str | Path | None = None
    max_block: float | None = None
    max_time: float | None = None
    max_growth: int | None = None
    defer: bool = False

    def __post_init__(self) -> None:
        if self.copy not in get_args(CopiedBy):
            raise ConfigurationError(f"copy={self.copy!r} is not one of {get_args(CopiedBy)}")
        if not isinstance(self.disconnect_others, bool):
            raise ConfigurationError(
                f"disconnect_others must be True or False, not {self.disconnect_others!r}"
            )
        if not (self.binaries is None or isinstance(self.binaries, str | Path)):
            raise ConfigurationError(f"binaries must be a path or None, not {self.binaries!r}")
        for name in ("max_block", "max_time", "max_growth"):
            limit = getattr(self, name)
            number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if limit is not None and not (number and 0 <= limit < math.inf):
                unit = "bytes" if name == "max_growth" else "seconds"
                raise ConfigurationError(f"{name}={limit!r} is not a number of {unit}, from 0 up")
        if not isinstance(self.defer, bool):
            raise ConfigurationError(f"defer must be True or False, not {self.defer!r}")
        if self.defer and not self.limited:
            raise ConfigurationError(
                "defer=True defers what exceeds a limit: give max_block, max_time or max_growth"
            )
        if self.copy == "dump" and self.disconnect_others:
            raise ConfigurationError("copy='dump' disconnects nobody: leave disconnect_others out")

    @property
    def limited(self) -> bool:
        """Whether the revisions have a limit."""
        return (self.max_block, self.max_time, self.max_growth) != (None, None, None)
