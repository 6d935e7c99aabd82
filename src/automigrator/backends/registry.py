"""Finds the backend of a database: one of ours, or one that another distribution provides."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from automigrator.backends.access import Access
    from automigrator.backends.contract.backend import Backend

ENTRY_POINT_GROUP = "automigrator.backends"

"""Its names are those of SQLAlchemy's dialects; each is called as `backend_for` is."""

_HINT = f"Another backend comes from a package with an entry point in {ENTRY_POINT_GROUP}"


def backend_for(access: Access, maintenance_database: str | None = None) -> Backend:
    """The backend for a URL's dialect; no other is imported.

    Raises PluginError for a dialect without a backend, and for an installed backend that is
    ambiguous or broken; ConfigurationError where the backend refuses the URL.
    """
    dialect = access.url.get_backend_name()
    if dialect == "sqlite":
        from automigrator.backends.sqlite.backend import SQLite

        return SQLite(access)
    if dialect == "postgresql":
        from automigrator.backends.postgresql.backend import PostgreSQL

        return PostgreSQL(access, maintenance_database)
    from automigrator.support.entry_points import Installed, blamed  # local: seldom needed

    what, ours = "backend for the dialect", ("sqlite", "postgresql")
    factory, called = Installed(ENTRY_POINT_GROUP, what, _HINT, ours).load(dialect)
    with blamed(f"{called} cannot be used"):
        backend: Backend = factory(access, maintenance_database)
    return backend
