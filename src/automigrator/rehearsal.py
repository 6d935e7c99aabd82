"""How a rehearsal makes its copy of a database."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from automigrator.errors import ConfigurationError
from automigrator.frozen import Frozen

CopiedBy = Literal["auto", "template", "dump"]


class Rehearsal(Frozen):
    """`rehearse=Rehearsal(...)` where `rehearse=True` is not enough; all of it is PostgreSQL's.

    The copy is made by template where nobody else is connected, else by pg_dump and pg_restore;
    `copy` insists on one of them. `disconnect_others` ends the sessions that a template copy
    finds in its way. `binaries` is the folder of pg_dump. Raises ConfigurationError.
    """

    copy: CopiedBy = "auto"
    disconnect_others: bool = False
    binaries: str | Path | None = None

    def __post_init__(self) -> None:
        if self.copy not in get_args(CopiedBy):
            raise ConfigurationError(f"copy={self.copy!r} is not one of {get_args(CopiedBy)}")
        if not isinstance(self.disconnect_others, bool):
            raise ConfigurationError(
                f"disconnect_others must be True or False, not {self.disconnect_others!r}"
            )
        if not (self.binaries is None or isinstance(self.binaries, str | Path)):
            raise ConfigurationError(f"binaries must be a path or None, not {self.binaries!r}")
        if self.copy == "dump" and self.disconnect_others:
            raise ConfigurationError("copy='dump' disconnects nobody: leave disconnect_others out")
