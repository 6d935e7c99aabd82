"""Where a revision written for a sync driver cannot run on the async one, and what can."""

from __future__ import annotations

from automigrator.databases.chain import chain
from automigrator.target import Target
from automigrator.upgrade.drives import Way, ways
from automigrator.upgrade.place import Place

_STATES = frozenset(
    {
        "42804",  # a parameter's type is declared, where the server would have inferred it
        "42883",  # the same, met by an operator
        "42P18",  # a parameter's type cannot be inferred before the value is known
        "55006",  # a server-side cursor is open until the transaction ends
    }
)
_SAYINGS = ("invalid input for query argument", "cannot insert multiple commands")


def async_driver_refused(error: BaseException) -> bool:
    """Whether the async driver may be what stopped a revision, rather than the database."""
    return any(
        type(each).__module__.startswith("asyncpg.")
        and (
            getattr(each, "sqlstate", None) in _STATES
            or any(saying in str(each) for saying in _SAYINGS)
        )
        for each in chain(error)
    )


def sync_way(target: Target, place: Place, way: Way, error: BaseException) -> Way | None:
    """The way by a sync driver, where `error` may come from the async one's; None without one."""
    if way.drive != "loop" or target.drive != "auto" or not async_driver_refused(error):
        return None
    return next((w for w in ways(target, place) if w.url.drivername != place.url.drivername), None)


def advice(target: Target, error: BaseException) -> str:
    """What to do about a revision that the async driver refused; empty for any other error."""
    if not async_driver_refused(error):
        return ""
    if target.drive == "loop":
        return (
            "asyncpg may be what refuses it: leave drive='loop' out, so that env.py is run with a "
            "sync driver in a thread; or repair the revision"
        )
    return (
        "asyncpg may be what refuses it: install the driver it was written for (psycopg), and it "
        "is run with that in a thread; or repair the revision"
    )
