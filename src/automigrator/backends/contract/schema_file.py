"""A file with the SQL that makes an empty database what a history makes of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from automigrator.errors import RefusedError
from automigrator.frozen import Frozen
from automigrator.support import json_object

_MARK = "-- automigrator schema: "

_ABOUT = (
    "-- Made by `automigrator schema dump`, and used for empty databases while the revisions are\n"
    "-- the ones that it was made from. Do not edit it: it is not used then.\n\n"
)

_NEXT = ";\n--;\n"


class SchemaFile(Frozen):
    """What a schema file says.

    `dialect`: the backend's name. `heads`: where it leads to. `history`: a digest of what it was
    made from. `names`: where names without a schema led to. `statements`: in order.
    """

    dialect: str
    heads: tuple[str, ...]
    history: str
    names: str
    statements: tuple[str, ...]

    def dumped(self) -> str:
        """The text of the file. Raises RefusedError for statements that cannot be told apart."""
        if any(_NEXT in each for each in self.statements):
            raise RefusedError(
                f"a text in the schema holds {_NEXT!r}, which stands between the statements of a "
                "schema file; none was written"
            )
        body = _NEXT.join([*self.statements, ""])
        said = {
            "format": 1,
            "dialect": self.dialect,
            "heads": list(self.heads),
            "history": self.history,
            "names": self.names,
            "body": _digest(body),
        }
        return f"{_MARK}{json_object.dumped(said)}\n{_ABOUT}{body}"


def loaded(text: str) -> SchemaFile | None:
    """What `dumped` made; None for anything else, and where a character of it was changed."""
    head, _, rest = text.replace("\r\n", "\n").partition("\n")
    body = rest.removeprefix(_ABOUT)
    try:
        said = json_object.parsed(head.removeprefix(_MARK))
        if said["format"] != 1 or said["body"] != _digest(body) or not head.startswith(_MARK):
            return None
        statements = body.split(_NEXT)[:-1]
        return json_object.read(SchemaFile, {**said, "statements": statements})
    except (ValueError, TypeError, KeyError):
        return None


def read(path: Path) -> SchemaFile | str:
    """What a file says; where there is none that is whole, why it cannot be used."""
    try:
        return loaded(path.read_bytes().decode()) or "it is no whole schema file"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        return "it is no whole schema file"


def _digest(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()
