"""One thing that happened in a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from automigrator.frozen import Frozen
from automigrator.printable import escaped


class Event(Frozen):
    """One thing that happened; `catalogue` has what there is.

    `at` is seconds since the epoch, by default now; `target` is None for the whole run; `run` is
    the same for all that one call of `run()` or `rollback()` tells.
    """

    name: str
    target: str | None = None
    data: Mapping[str, Any] = MappingProxyType({})
    at: float = 0.0
    run: str = ""

    def __post_init__(self) -> None:
        self._set(data=MappingProxyType(dict(self.data)), at=self.at or time.time())

    def __str__(self) -> str:
        facts = " ".join(f"{key}={value}" for key, value in self.data.items())
        return escaped(" ".join(part for part in (self.name, self.target, facts) if part))

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        told = {"name": self.name, "target": self.target, "at": self.at, "run": self.run}
        return {**self.data, **told}

    def to_log(self) -> dict[str, Any]:
        """What a log record carries as `automigrator`; the record has a time of its own."""
        return {"event": self.name, "run": self.run, "target": self.target, **self.data}
