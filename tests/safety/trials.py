"""One trial: what is deployed, what happened before, who starts, and what goes wrong."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuzz.histories import FIRST
from safety.causes import CAUSES
from support import alembic_projects

ENVIRONMENTS = ("async", "per_migration", "generic")

STRIKES = {
    "at once": "",
    "after a change": 'op.execute("CREATE TABLE t_r3 (id INTEGER)")\n',
    "after rows": 'op.execute("UPDATE notes SET times = times + 1")\n',
    "after a commit": (
        "with op.get_context().autocommit_block():\n"
        '    op.execute("CREATE TABLE IF NOT EXISTS a_r3 (id INTEGER)")\n'
    ),
    "after rows were committed": (
        "with op.get_context().autocommit_block():\n"
        '    op.execute("UPDATE diary SET sum = sum")\n'
        '    op.execute("DELETE FROM counter WHERE n > 9")\n'
        '    op.execute("CREATE TABLE IF NOT EXISTS a_r3 (id INTEGER)")\n'
    ),
}
"""Where in the third revision the cause strikes, and what was done by then."""

WHEN = {
    "always": "{cause}",
    "with rows": 'if op.get_bind().execute(sa.text("SELECT 1 FROM notes")).first():\n    {cause}',
    "once": "if not TALLY.exists():\n    TALLY.touch()\n    {cause}",
}

PAST = (
    "nothing",
    "nothing",
    "a start failed",
    "killed",
    "killed, then finished by hand",
    "killed, then finished by hand and taken further",
    "killed, then restored by hand",
    "killed, then overwritten by hand",
    "killed, then changed by hand",
    "copied back: journal of a finished run",
)
"""What has happened to the database before the start that is judged."""

FILES = {PAST[-1], "killed, then restored by hand", "killed, then overwritten by hand"}
"""What is done to a file."""

HEAD, WANTED = "r1", "r4"


@dataclass(frozen=True)
class Setting:
    """How one process is configured."""

    recovery: tuple[tuple[str, dict[str, Any]], ...]
    allow_partial: bool

    @property
    def named(self) -> dict[str, dict[str, Any]]:
        return dict(self.recovery)

    @property
    def continues(self) -> bool:
        """Whether it may ever start on a database that is not at the wanted heads."""
        answer = self.named.get("backup-restore", {}).get("then")
        return "log-and-continue" in self.named or answer == "continue"

    def purges(self, whose: str) -> bool:
        """Whether a failure of this kind allows it to replace the database."""
        options = self.named.get("purge")
        if options is None:
            return False
        return whose == "data" or (whose == "code" and options.get("python_errors", False))


@dataclass(frozen=True)
class Trial:
    """The values of the axes, by their names."""

    database: str
    environment: str
    cause: str
    strike: str
    when: str
    past: str
    leader: Setting
    followers: tuple[Setting, ...]

    def __str__(self) -> str:
        return " | ".join(str(value) for value in asdict(self).values())

    @property
    def settings(self) -> tuple[Setting, ...]:
        return (self.leader, *self.followers)

    def write(self, versions: Path, *, mended: bool = False, killed: bool = False) -> None:
        """Write the four revisions; the third one fails, is `mended`, or is where a kill comes."""
        for each in versions.glob("r*.py"):
            each.unlink()
        cause = CAUSES[self.cause].code
        if killed:
            cause = "__import__('os').kill(__import__('os').getpid(), 9)"
        body = STRIKES[self.strike]
        if not mended:
            when = WHEN["always" if killed else self.when]
            body += when.format(cause=cause.replace("\n", "\n    " if "\n" in when else "\n"))
        bodies = {
            "r1": FIRST,
            "r2": 'op.add_column("notes", sa.Column("c_r2", sa.Integer))',
            "r3": body + '\nop.add_column("notes", sa.Column("c_r3", sa.Integer))',
            "r4": 'op.create_table("t_r4", sa.Column("id", sa.Integer))',
        }
        down = None
        for name, code in bodies.items():
            alembic_projects.revision(
                versions,
                name,
                down,
                upgrade=code,
                imports=f"from pathlib import Path\nTALLY = Path({str(versions / 'tally')!r})",
            )
            down = name


def drawn(seed: str) -> Trial:
    """A trial in which every value is for the others."""
    rng = random.Random(seed)
    database = rng.choice(["sqlite", "postgresql"])
    cause = rng.choice([name for name, each in CAUSES.items() if database in each.on])
    pasts = [each for each in PAST if database == "sqlite" or each not in FILES]
    return Trial(
        database,
        rng.choice(ENVIRONMENTS),
        cause,
        rng.choice(list(STRIKES)),
        rng.choice(list(WHEN)),
        rng.choice(pasts),
        _setting(rng),
        tuple(_setting(rng) for _ in range(rng.choice([0, 0, 0, 1, 2]))),
    )


def _setting(rng: random.Random) -> Setting:
    backup = {
        "snapshot": rng.choice(["auto", "always"]),
        "then": rng.choice(["pass", "retry", "continue", "abort"]),
        "keep": rng.choice([None, 1]),
    }
    purge = {"python_errors": True} if rng.random() < 0.25 else {}
    specs: list[tuple[str, dict[str, Any]]] = [
        ("backup-restore", {**backup, "disconnect_others": True}),
        ("purge", {**purge, "disconnect_others": True}),
        ("log-and-continue", {}),
    ]
    rng.shuffle(specs)
    return Setting(tuple(specs[: rng.randint(0, 3)]), rng.random() < 0.3)
