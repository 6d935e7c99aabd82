from __future__ import annotations

from typing import Any

import pytest

from automigrator import ConfigurationError, Target
from automigrator.migrations.config import alembic_config


def test_a_config_that_is_none_of_alembics_is_refused_in_words() -> None:
    other: Any = {"script_location": "migrations"}
    target = Target("sqlite+aiosqlite:///app.db", other)
    with pytest.raises(ConfigurationError, match=r"a dict; it takes an alembic\.config\.Config"):
        alembic_config(target, target.application_url)
