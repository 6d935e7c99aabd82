"""Files that Python's own SQLite cannot read: damaged, encrypted, or of another format."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from sqlalchemy import event

from automigrator.backends.access import Access
from automigrator.backends.sqlite import codes
from automigrator.backends.sqlite.codes import is_damage
from automigrator.errors import RefusedError
from automigrator.support.error_chain import chain

_OWN_DRIVERS = frozenset({"", "pysqlite", "aiosqlite"})


class ForeignFormatError(RefusedError):
    """Raised for a file that may be sound, in a format that Python's own sqlite3 cannot read."""

    kind = "env"


class NewerFormatError(RefusedError):
    """Raised for a file that most likely a newer SQLite has written."""

    kind = "env"
    advice = codes.NEWER


async def ensure_damaged(access: Access, error: sqlite3.DatabaseError) -> None:
    """Return when the file that raised `error` is damaged beyond doubt.

    Raises ForeignFormatError when the application's own connection can read it, or when the
    application opens it in a special way: then a wrong key would look like damage.
    """
    where, engine = access.url.database, access.given_engine
    if codes.is_newer(error):
        raise NewerFormatError(
            f"this SQLite, {sqlite3.sqlite_version}, cannot read {where} ({error}); nothing was "
            "touched"
        )
    in_doubt = ForeignFormatError(
        f"Python's sqlite3 cannot read {where} ({error}), and the application opens it in a way "
        "of its own, so that damage cannot be told from a wrong key; nothing was touched. Check "
        "the key, and open the file with the application's own tools; if it is damaged, put a "
        "backup in its place by hand"
    )
    if engine is None:
        if access.driver in _OWN_DRIVERS and "vfs" not in access.url.query and not _has_codec():
            return
        raise in_doubt
    plain: list[bool] = []

    def connects(_dialect: Any, _record: Any, cargs: list[Any], cparams: dict[str, Any]) -> None:
        # never called where a creator=, or a listener before this one, makes the connection
        special = "vfs=" in " ".join(map(str, cargs)) or {"factory", "vfs"} & set(cparams)
        if engine.dialect.driver in _OWN_DRIVERS and not special:
            plain.append(True)  # it connects as SQLAlchemy itself does

    event.listen(engine.sync_engine, "do_connect", connects)
    try:
        async with access.connection() as connection:
            await connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    except Exception as refused:  # noqa: BLE001 - any error leaves it in doubt
        if plain and any(map(is_damage, chain(refused))) and not _has_codec():
            return
        raise in_doubt from None
    finally:
        event.remove(engine.sync_engine, "do_connect", connects)
    raise ForeignFormatError(
        f"only the application's own connection can read {where}; Python's sqlite3 says: {error}. "
        "automigrator reads and copies SQLite files with Python's sqlite3, so it cannot migrate a "
        "file that is encrypted or of another format; nothing was touched. Migrate it with "
        "Alembic itself, before the application starts"
    )


def _has_codec() -> bool:
    """Tell whether Python's library is built with encryption: then any file may need a key."""
    with closing(sqlite3.connect(":memory:")) as connection:
        options = {str(row[0]) for row in connection.execute("PRAGMA compile_options")}
        cipher = connection.execute("PRAGMA cipher_version").fetchall()
    return "HAS_CODEC" in options or bool(cipher)
