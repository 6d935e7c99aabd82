"""Rows for a database that has just come to a revision: the user's, and made ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from sqlalchemy import URL

from pytest_automigrator.application import Application
from pytest_automigrator.walks import Rows, Seed, insert

NO_ROWS = "no row could be made for {}: put some in with the fixture automigrator_rows"


def seed_of(application: Application, rows: Mapping[str, Rows]) -> Seed:
    """Put in the rows of the user's, then made ones where Hypothesis is installed."""

    def seed(url: URL, revision: str) -> Sequence[str]:
        insert(url, rows.get(revision, {}))
        if importlib.util.find_spec("hypothesis") is None:
            return ()
        from pytest_automigrator.rows import add_rows

        return add_rows(url, application.version_tables(url))

    return seed
