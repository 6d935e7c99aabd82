"""The suite that a backend's tests inherit."""

from __future__ import annotations

from automigrator.testing.backends.kills import KillCases


class BackendConformance(KillCases):
    """The cases that every backend passes; those of SQLite and PostgreSQL do.

    The backend is the one that `backend_for` finds for the URLs of `open_databases`, which an
    author overrides and names in `databases`. Cases that need a part which the backend's `offers`
    does not declare are skipped, and say so.
    """

    __test__ = False


__all__ = ["BackendConformance"]
