"""What to do about what PostgreSQL's SQLSTATE says, where that is more than the kind says."""

from __future__ import annotations

from automigrator.databases import advice
from automigrator.databases.postgresql.codes import code_of

_AGAIN = "start again: nothing of the attempt was committed"
_BY_CODE: dict[str, str] = {
    "3D000": "create the database, or leave Target(create=False) out; check the URL's name of it",
    "53300": (
        "the server has no connection left for this role: end some (pg_stat_activity), or raise "
        "max_connections, the role's or the database's connection limit"
    ),
    "57P03": (
        "the server is starting, stopping or recovering: wait for it and start again, or raise "
        "Target(connect_timeout=)"
    ),
    "28P01": "check the password in the URL, and that it is this server's",
    "42501": (
        "give the role the right that is missing (GRANT, ALTER ... OWNER TO), or name a role that "
        "has it with Target(migrate_with=...)"
    ),
    "55P03": (
        "end the session that holds the lock (pg_stat_activity), or start again when it is gone; "
        "Target(retry_timeout=) says how long it is tried"
    ),
    "40P01": (
        f"{_AGAIN}. If it happens again, let the revision lock its tables in the order in which "
        "the application does"
    ),
    "40001": f"{_AGAIN}. If it happens again, stop what writes to the same rows meanwhile",
    "57014": (
        "raise statement_timeout for the migrating role (ALTER ROLE ... SET), or split the "
        "revision; if nobody set it, somebody cancelled the statement"
    ),
    "53100": (
        "free space on the server's disk (data, pg_wal, the tablespace, temporary files), then "
        "start again"
    ),
    "25006": (
        "point the target at the primary; if it is one, look at default_transaction_read_only of "
        "the server, the database and the role"
    ),
    "XX001": (
        "stop writing to this server, copy its data directory, and look at its disk; then restore "
        "a backup"
    ),
    "23505": advice.DUPLICATES,
    "23502": advice.NO_VALUE,
    "23503": advice.ORPHANS,
    "23514": advice.VIOLATES,
    "23P01": advice.VIOLATES,
    **dict.fromkeys(("42P07", "42701", "42710", "42P06", "42723"), advice.THERE_ALREADY),
    **dict.fromkeys(("42P01", "42703", "42704", "3F000"), advice.NOT_THERE),
}
_BY_CLASS = {"22": advice.NOT_FITTING}


def advise(error: BaseException) -> str:
    """A sentence for a person; empty where the kind's own is as good."""
    code = code_of(error) or ""
    return _BY_CODE.get(code) or _BY_CLASS.get(code[:2], "")
