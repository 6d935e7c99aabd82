"""What a database declares of the code that works with it, kept outside its own schema."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from automigrator.frozen import Frozen
from automigrator.support import json_object


class Declaration(Frozen):
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
    return json_object.dumped(declarations)


def loaded(text: str | None) -> tuple[Declaration, ...]:
    """What `dumped` made; nothing for anything else, as only a declaration allows something."""
    try:
        data = json_object.parsed(text or "[]")
        return tuple(json_object.read(Declaration, each) for each in data)
    except (ValueError, TypeError):
        return ()
