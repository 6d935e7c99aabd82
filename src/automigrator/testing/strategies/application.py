"""An application with notes in its database, and what its next deployment brings."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from automigrator.target import Target
from automigrator.testing.contents import ROWS, Contents, fill, with_notes

_ENV = """
from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration={per_revision})
with context.begin_transaction():
    context.run_migrations()
"""

_REVISION = '''
"""{id}"""

import sqlalchemy as sa
from alembic import op

revision = {id!r}
down_revision = {down!r}


def upgrade():
{upgrade}


def downgrade():
    pass
'''

_CREATE = """
op.create_table(
    "notes",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.String(50), nullable=False),
)
"""

_GOOD = """
op.create_table("tags", sa.Column("id", sa.Integer, primary_key=True))
op.execute("UPDATE notes SET text = 'changed' WHERE id = 1")
"""

_BROKEN = 'op.execute("SELECT * FROM absent")'

_IN_THE_WAY = 'op.create_index("one_of_each", "notes", ["text"], unique=True)'

# a table as well: half a revision that changed rows alone is not told from none at the next start
_LOSS = """
with op.get_context().autocommit_block():
    op.execute("DELETE FROM notes WHERE id = 0")
    op.create_table("half", sa.Column("id", sa.Integer, primary_key=True), if_not_exists=True)
"""

_TAGS: Contents = {"tags": (("id",), ())}

_HALF: Contents = {"half": (("id",), ())}

OLD = with_notes()

"""What every case begins with."""


@dataclass(frozen=True)
class Deployment:
    """Revisions to come; `left` is what they leave where no strategy does anything about it.

    `fresh` is what they make of an empty database; None where they fail on that as well.
    """

    name: str
    upgrades: tuple[str, ...]
    left: Contents
    fresh: Contents | None = None
    per_revision: bool = False

    @property
    def wanted(self) -> str:
        """The head they lead to."""
        return f"r{1 + len(self.upgrades)}"


_CHANGED = tuple((number, "changed" if number == 1 else text) for number, text in ROWS)

GOOD = Deployment("a good revision", (_GOOD,), {**with_notes("r2", _CHANGED), **_TAGS})

BROKEN = Deployment("a broken revision, rolled back", (_GOOD, _BROKEN), OLD)

AT_BOUNDARY = Deployment(
    "a broken revision after one that was committed",
    (_GOOD, _BROKEN),
    GOOD.left,
    per_revision=True,
)

HALF_WAY = Deployment(
    "a broken revision that committed a part",
    (_LOSS + _BROKEN,),
    {**with_notes(rows=ROWS[1:]), **_HALF},
)

IN_THE_WAY = Deployment("rows in the way", (_IN_THE_WAY,), OLD, fresh=with_notes("r2", ()))

HALF_IN_THE_WAY = Deployment(
    "rows in the way of a revision that committed a part",
    (_LOSS + _IN_THE_WAY,),
    HALF_WAY.left,
    fresh={**with_notes("r2", ()), **_HALF},
)


class Application:
    """Its database is at r1, with `OLD` in it."""

    def __init__(self, folder: Path, url: URL) -> None:
        self.folder, self.url = folder, url
        self._versions = folder / "versions"
        self._versions.mkdir(parents=True, exist_ok=True)
        self._write("r1", None, _CREATE)
        self._write_env(per_revision=False)

    async def start_afresh(self) -> None:
        """Make its database; there is none yet."""
        from automigrator.testing.conformance import backend_of

        await backend_of(self.url).create()
        await fill(self.url)

    def deploy(self, deployment: Deployment) -> None:
        self._write_env(per_revision=deployment.per_revision)
        for number, upgrade in enumerate(deployment.upgrades, 2):
            self._write(f"r{number}", f"r{number - 1}", upgrade)

    def target(self, **options: Mapping[str, Any]) -> Target:
        return Target(self.url, self.folder, name="app", **options)  # type: ignore[arg-type]

    def _write(self, id: str, down: str | None, upgrade: str) -> None:
        body = textwrap.indent(upgrade.strip(), "    ")
        text = _REVISION.format(id=id, down=down, upgrade=body).lstrip()
        (self._versions / f"{id}.py").write_text(text, "utf-8")

    def _write_env(self, *, per_revision: bool) -> None:
        text = _ENV.format(per_revision=per_revision).lstrip()
        (self.folder / "env.py").write_text(text, "utf-8")
