"""The counts of a session, and the table of them."""

from __future__ import annotations

import pytest
from table import Table

TABLE = Table("fuzz.md", "nox -s fuzz -- --write-table", ("database", "what", "runs"))
