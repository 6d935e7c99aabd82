"""Rows for a database that has just come to a revision: the user's, and made ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from sqlalchemy import URL

from pytest_automigrator.application import Application
from pytest_automigrator.walks import Rows, Seed, insert


def seed_of(application: Application, rows: Mapping[str, Rows]) -> Seed:
    """Put in the rows of the user's, then made ones where Hypothesis is installed."""

    def seed(url: URL, revision: str) -> None:
        insert(url, rows.get(revision, {}))
        if importlib.util.find_spec("hypothesis") is not None:
            from pytest_automigrator.rows import add_rows

            add_rows(url, application.version_table)

    return seed
