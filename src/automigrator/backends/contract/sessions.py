"""The part of a backend that knows a driver's connections; every backend has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from automigrator.backends.contract.values import VersionTable


OURS = "automigrator_ours"
"""The execution option of statements that are no revision's."""


class Sessions(ABC):
    """What is asked of, and done to, the connection that a migration runs on.

    Every method gets a sync `Connection`, in the thread or greenlet that uses it.
    """

    @abstractmethod
    def identity(self, connection: Connection) -> Hashable:
        """Say which database a connection leads to; equal for two connections to the same one."""

    def adopt(self, connection: Connection, *, to_write: bool = True) -> Callable[[], None]:
        """Make a connection's transactions real where the driver's are not.

        `to_write` False: it only reads, blocks nobody and is blocked by nobody. Returns the call
        that undoes it.
        """
        return lambda: None

    def limit_statements(self, connection: Connection, seconds: float) -> Callable[[], None] | None:
        """Let the server end each statement after `seconds`, unless a shorter limit is set.

        Returns the call that undoes it; None where no server can, and the core interrupts.
        """
        return None

    def interrupter(self, connection: Connection) -> Callable[[], None] | None:
        """Return a thread-safe call that interrupts the running statement; None without one."""
        return None

    def resolve(self, connection: Connection, table: VersionTable) -> VersionTable:
        """Name the schema in which this connection finds an unqualified version table."""
        return table

    def given_later(self, arguments: Mapping[str, Any]) -> tuple[Collection[str], Sequence[str]]:
        """Give a driver's arguments to a connection that another way has made.

        Returns the names of those that make a difference and cannot be given any more, and the
        SQL that gives the others; what merely limits or caches is left out.
        """
        return arguments.keys(), ()

    def led_apart(self, connection: Connection, table: VersionTable) -> Callable[[], str] | None:
        """Observe where names without a schema lead, once the revisions have run.

        Returns a call that compares that with the target's own connections after the next look:
        it says in a sentence for the report how they differ, or "". None where they cannot.
        """
        return None

    def names_in(self, connection: Connection) -> str:
        """Say where names without a schema lead to; equal where a script makes the same of both."""
        return ""

    @property
    def sends_scripts(self) -> bool:
        """Whether `run_script` sends several statements at once, so that none is known to fail."""
        return False

    def run_script(self, connection: Connection, statements: Sequence[str]) -> None:
        """Run statements that have no parameters in the open transaction, as cheaply as may be.

        They are sent as they are: no `%` and no `:` in them means anything. Raises a DBAPIError.
        """
        plain = connection.execution_options(no_parameters=True)
        for each in statements:
            plain.exec_driver_sql(each)

    def mark(self, connection: Connection, number: int) -> None:
        """Leave a number with the open transaction, which its rollback takes back.

        Nobody else may see it. Outside SQLAlchemy's own calls, so that no listener is called.
        """

    def marked(self, connection: Connection) -> int | None:
        """Return the number of the last transaction that was committed; None where none can tell.

        It is asked outside a transaction, and leaves none open.
        """
        return None

    def transaction(self, connection: Connection) -> str | None:
        """Name the open transaction, so that a later process can ask what became of it.

        None where none can. Outside SQLAlchemy's own calls, as `mark`.
        """
        return None

    def before_commit(self, connection: Connection, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` made before each COMMIT that SQLAlchemy does not know of.

        Such are the driver's own, and one in a script. Returns the call that undoes it.
        """
        return lambda: None

    def ended(self, connection: Connection) -> bool:
        """Whether the database has ended a transaction that SQLAlchemy takes to be open.

        Each further statement is committed by itself then. It costs no round trip.
        """
        return False

    def eases(self, error: BaseException) -> bool:
        """Tell whether env.py is to run once more, on connections that `adopt` treats otherwise.

        Nothing of the transaction in which `error` arose was committed.
        """
        return False

    def written(self, connection: Connection) -> Hashable | None:
        """Return what is another value once this connection has written; None where none can tell.

        Outside SQLAlchemy's own calls, as `mark`.
        """
        return None

    def configure_options(self, connection: Connection | None = None) -> dict[str, Any]:
        """Return options of `context.configure` for an env.py that does not set them.

        `connection` is None where SQL is written only.
        """
        return {}


def in_autocommit(connection: Connection) -> bool:
    """Tell whether SQLAlchemy or the driver was told to commit each statement by itself."""
    level = connection.get_execution_options().get("isolation_level")
    if level is None:  # of `create_engine`
        level = getattr(connection.dialect, "_on_connect_isolation_level", None)
    raw: Any = connection.connection.driver_connection
    # True: the driver's commit() does nothing; sqlite3 has it from Python 3.12 on
    return level == "AUTOCOMMIT" or getattr(getattr(raw, "_conn", raw), "autocommit", None) is True
