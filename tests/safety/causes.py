"""What goes wrong inside a revision, and whether the database itself said that data is at odds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Whose = Literal["data", "surroundings", "code"]
"""Who is at fault: data or schema, by the database's word; what surrounds it; the revision."""

SQLITE, POSTGRESQL = ("sqlite",), ("postgresql",)
BOTH = SQLITE + POSTGRESQL


@dataclass(frozen=True)
class Cause:
    """`code` fails where it stands, in every run of the revision."""

    code: str
    whose: Whose
    on: tuple[str, ...] = BOTH


def _sql(statement: str) -> str:
    return f"op.execute(sa.text({statement!r}))"


def _raised(sqlstate: str) -> str:
    return _sql(f"DO $$ BEGIN RAISE EXCEPTION 'drawn' USING ERRCODE = '{sqlstate}'; END $$")


def _then(first: str, clean_up: str) -> str:
    """A clean-up that fails as well: the last error is not the cause."""
    return f"try:\n    {first}\nexcept Exception:\n    {clean_up}\n    raise"


_FULL = "op.execute('PRAGMA max_page_count = 1'); " + _sql(
    "CREATE TABLE filled AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
    "WHERE i < 5000) SELECT i, hex(randomblob(500)) AS x FROM n"
)

_DATA = {
    "a row too many": Cause(_sql("INSERT INTO counter VALUES (NULL)"), "data"),
    "no such table": Cause(_sql("SELECT * FROM nowhere"), "data"),
    "no such column": Cause(_sql("SELECT nothing FROM notes"), "data"),
    "there already": Cause(_sql("CREATE TABLE notes (id INTEGER)"), "data"),
    "syntax": Cause(_sql("SELEKT 1"), "data"),
    "mismatch": Cause(
        _sql("INSERT INTO notes (id, token, sum, times) VALUES ('x', 'y', 'z', 1)"), "data", SQLITE
    ),
    **{
        f"SQLSTATE {code}": Cause(_raised(code), "data", POSTGRESQL)
        for code in ("22012", "22P02", "23502", "23505", "42P07", "42703", "42804")
    },
}

_SURROUNDINGS = {
    "no such function": Cause(_sql("SELECT no_such_function(1)"), "surroundings"),
    "no such collation": Cause(
        _sql('SELECT token FROM notes ORDER BY token COLLATE "nowhere"'), "surroundings"
    ),
    "no such module": Cause(
        _sql("CREATE VIRTUAL TABLE v USING nowhere(x)"), "surroundings", SQLITE
    ),
    "no such tokenizer": Cause(
        _sql("CREATE VIRTUAL TABLE v USING fts5(x, tokenize = 'nowhere')"), "surroundings", SQLITE
    ),
    "full": Cause(_FULL, "surroundings", SQLITE),
    "full, and a clean-up": Cause(_then(_FULL, _sql("DROP TABLE nowhere")), "surroundings", SQLITE),
    "read only": Cause(
        "op.execute('PRAGMA query_only = 1'); " + _sql("DELETE FROM counter"),
        "surroundings",
        SQLITE,
    ),
    "no such extension": Cause(
        _sql("CREATE EXTENSION no_such_extension"), "surroundings", POSTGRESQL
    ),
    "no such role": Cause(_sql("SET ROLE nobody_of_this_name"), "surroundings", POSTGRESQL),
    **{
        f"SQLSTATE {code}": Cause(_raised(code), "surroundings", POSTGRESQL)
        for code in (
            *("42501", "42883", "42704", "53000", "53100", "53200", "53400", "54001", "55000"),
            *("55006", "57000", "58000", "58030", "XX000", "XX002", "40003", "0A000", "P0001"),
        )
    },
    **{
        f"SQLSTATE {code}, and a clean-up": Cause(
            _then(_raised(code), _sql("SELECT 1")), "surroundings", POSTGRESQL
        )
        for code in ("53200", "58030", "42501")
    },
}

_CODE = {
    name: Cause(f"raise {raised}", "code")
    for name, raised in {
        "RuntimeError": "RuntimeError('drawn')",
        "a missing variable": "KeyError('NOT_SET')",
        "a missing package": "ModuleNotFoundError('no_such_package')",
        "a missing file": "FileNotFoundError(2, 'No such file or directory', '/nowhere')",
        "too many files": "OSError(24, 'Too many open files')",
        "an I/O error": "OSError(5, 'Input/output error')",
        "no memory": "MemoryError()",
        "sys.exit": "SystemExit(1)",
        "no such host": "__import__('socket').gaierror(-2, 'Name or service not known')",
        "refused": "ConnectionRefusedError(111, 'Connection refused')",
        "a time limit": "TimeoutError('drawn')",
    }.items()
}

CAUSES = {**_DATA, **_SURROUNDINGS, **_CODE}
