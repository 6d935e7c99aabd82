"""Checksums of the files of applied revisions, kept outside the application's schema."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from automigrator.frozen import Frozen

_FIRST = '{"whole": "'


class Checksums(Frozen):
    """The checksum of each applied revision's file, by its id, as of when it was applied."""

    of: Mapping[str, str]

    def dumped(self) -> str:
        """A text that begins with the checksum of all, so that a look need not read the rest."""
        from automigrator.support import json_object  # local: a look only compares

        return json_object.dumped({"whole": whole(self.of), "of": dict(sorted(self.of.items()))})


def loaded(text: str | None) -> Checksums | None:
    """What `dumped` made; None for anything else, as it only serves to compare."""
    from automigrator.support import json_object  # local: a look only compares

    try:
        found = json_object.read(Checksums, json_object.parsed(text))
    except ValueError:
        return None
    return found if all(isinstance(each, str) for each in found.of.values()) else None


def begun(text: str | None) -> str | None:
    """The checksum of all, of a text of `dumped` or its beginning."""
    if not text or not text.startswith(_FIRST):
        return None
    return text[len(_FIRST) : BEGINNING]


BEGINNING = len(_FIRST) + 32
"""Characters of a text that `begun` needs."""


def checksum(content: bytes) -> str:
    """The checksum of a revision's file: of its bytes, but that line endings do not count."""
    return hashlib.blake2b(content.replace(b"\r\n", b"\n"), digest_size=8).hexdigest()


def whole(of: Mapping[str, str]) -> str:
    """One checksum of many."""
    lines = "".join(f"{name}\0{each}\0" for name, each in sorted(of.items()))
    return hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()
