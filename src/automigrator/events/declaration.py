"""How an event is declared: what it promises to carry, and how it reads in the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

_LOUD = {"recovered": logging.WARNING, "degraded": logging.WARNING, "failed": logging.ERROR}


class Declared(NamedTuple):
    """One kind of event; `keys` says what each key of its `data` is, in JSON types.

    `sentence` is the log record's, filled from the data; empty where `told` is all of it. `level`
    None goes by the data's outcome. `ends` is the event that began what this one ends.
    """

    name: str
    when: str
    sentence: str
    keys: Mapping[str, str]
    level: int | None = logging.INFO
    ends: tuple[str, ...] = ()

    def level_for(self, data: Mapping[str, Any]) -> int:
        """How loud this one is."""
        return (
            _LOUD.get(data.get("outcome", ""), logging.INFO) if self.level is None else self.level
        )

    def said(self, target: str | None, data: Mapping[str, Any], told: object) -> str:
        """The log record's text; what is missing for it must not stop a run."""
        try:
            text = self.sentence.format(**data) if self.sentence else str(told)
        except (LookupError, ValueError, TypeError):
            text = self.name
        return f"{target}: {text}" if target else text


def event(
    name: str,
    when: str,
    sentence: str = "",
    /,
    *,
    level: int | None = logging.INFO,
    ends: str | tuple[str, ...] = (),
    **keys: str,
) -> Declared:
    """Declare the event `name`, told `when`, with `keys` and what each of them means."""
    return Declared(name, when, sentence, keys, level, (ends,) if isinstance(ends, str) else ends)
