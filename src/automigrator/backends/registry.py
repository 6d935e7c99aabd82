"""Finds the backend of a database that automigrator itself does not know."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from automigrator.backends.access import Access
from automigrator.errors import ConfigurationError, PluginError
from automigrator.support.urls import scrubbed

if TYPE_CHECKING:
    from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.backend import Backend

ENTRY_POINT_GROUP = "automigrator.backends"

"""Its names are those of SQLAlchemy's dialects; each is called as `backend_for` is."""


def installed_backend(access: Access, maintenance_database: str | None) -> Backend:
    """The installed backend for a URL's dialect; no other is imported.

    Raises ConfigurationError where there is none, PluginError for one that is ambiguous, broken
    or refuses.
    """
    dialect = access.url.get_backend_name()
    entry = _only(dialect)
    what = f"the backend for the dialect {dialect!r} of {_distribution(entry)}"
    try:
        factory = entry.load()
    except Exception as error:
        raise PluginError(
            f"{what} cannot be imported: {_described(error)}; nothing was changed"
        ) from error
    if not callable(factory):
        raise PluginError(
            f"{what} cannot be called: its entry point {entry.value} is a "
            f"{type(factory).__qualname__}; nothing was changed"
        )
    try:
        backend: Backend = factory(access, maintenance_database)
    except ConfigurationError:
        raise
    except Exception as error:
        raise PluginError(
            f"{what} cannot be used: {_described(error)}; nothing was changed"
        ) from error
    return backend


def _only(dialect: str) -> EntryPoint:
    installed = tuple(entry_points(group=ENTRY_POINT_GROUP))
    matches = [entry for entry in installed if entry.name == dialect]
    if len(matches) == 1:
        return matches[0]
    if matches:
        owners = " and ".join(sorted(_distribution(entry) for entry in matches))
        raise PluginError(
            f"a backend for the dialect {dialect!r} is provided by {owners}; uninstall all but one"
        )
    others = ", ".join(sorted({entry.name for entry in installed}))
    raise ConfigurationError(
        f"no backend for the dialect {dialect!r}; automigrator knows sqlite and postgresql"
        + (f", and {others} by what is installed" if others else "")
        + f". Another one comes from a package with an entry point in {ENTRY_POINT_GROUP}"
    )


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def _described(error: Exception) -> str:
    return f"{type(error).__qualname__}: {scrubbed(str(error))}"


def backend_for(access: Access, maintenance_database: str | None = None) -> Backend:
    """The backend for a URL; of an installed one's entry point where it is not one of ours.

    Raises ConfigurationError naming the dialects there are.
    """
    dialect = access.url.get_backend_name()
    if dialect == "sqlite":
        from automigrator.backends.sqlite.backend import SQLite

        return SQLite(access)
    if dialect == "postgresql":
        from automigrator.backends.postgresql.backend import PostgreSQL

        return PostgreSQL(access, maintenance_database)
    pass

    return installed_backend(access, maintenance_database)
