"""What a database declares of the code that works with it, kept outside its own schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Declaration:
    """True of a database at exactly these `heads`, and of no other.

    Code works with it that knows every one of `floors` and asks for nothing that is not among
    `revisions`, all that are applied. `version` is the application's that went there.
    """

    heads: tuple[str, ...]
    floors: tuple[str, ...]
    revisions: tuple[str, ...]
    version: str | None = None


def of(declarations: Iterable[Declaration], heads: Iterable[str]) -> Declaration | None:
    """The one for a database at `heads`; None where every one is of another moment."""
    wanted = tuple(sorted(heads))
    return next((each for each in declarations if each.heads == wanted), None)


def dumped(declarations: Sequence[Declaration]) -> str:
    return json.dumps([asdict(each) for each in declarations])


def loaded(text: str | None) -> tuple[Declaration, ...]:
    """What `dumped` made; nothing for anything else, as only a declaration allows something."""
    try:
        return tuple(
            Declaration(
                _strings(each["heads"]),
                _strings(each["floors"]),
                _strings(each["revisions"]),
                None if each["version"] is None else str(each["version"]),
            )
            for each in json.loads(text or "[]")
        )
    except (ValueError, KeyError, TypeError):
        return ()


def _strings(found: object) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(found)
    return tuple(found)
