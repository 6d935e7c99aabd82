"""Whether an event that a test provokes is the one that was declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from automigrator.events.catalogue import CATALOGUE


def misfit(name: str, data: Mapping[str, Any]) -> str | None:
    """Say what is wrong with an event beside its declaration; None: nothing."""
    declared = CATALOGUE.get(name)
    if declared is None:
        return f"the event {name!r} is not declared: add it to automigrator/events/catalogue.py"
    told, said = set(data), set(declared.keys)
    if told == said:
        return None
    more, less = ", ".join(sorted(told - said)), ", ".join(sorted(said - told))
    return (
        f"the event {name!r} carries other keys than automigrator/events/catalogue.py declares: "
        f"undeclared: {more or 'none'}; missing: {less or 'none'}"
    )
