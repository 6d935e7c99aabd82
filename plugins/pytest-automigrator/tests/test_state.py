"""What the comparison of two states of a PostgreSQL database sees."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_automigrator.state import differences, state_of
from sqlalchemy import make_url

BEFORE = (
    "create table notes (id int primary key, text text)",
    "create sequence numbers",
    "create domain word as text check (length(value) < 9)",
)
CHANGES = {
    "alter table notes enable row level security": "table notes: was 'r', is 'r row security'",
    "create policy mine on notes using (id > 0)": "policy mine of notes: left over",
    "alter sequence numbers increment 5": "sequence numbers: was *",
    "alter domain word set not null": "domain word: was *",
    "comment on table notes is 'all notes'": "table notes: was 'r', is \"r 'all notes'\"",
    "alter table notes set (fillfactor = 50)": "table notes: was 'r', is 'r fillfactor=50'",
}


@pytest.fixture
def changed(postgres_server: Any, postgres_url: str) -> Any:
    """What differs in a database after a statement."""

    def run(sql: str) -> list[str]:
        url = make_url(postgres_url)
        for each in BEFORE:
            postgres_server.execute(each, database=url.database)
        before = state_of(url)
        postgres_server.execute(sql, database=url.database)
        return differences(before, state_of(url))

    return run


@pytest.mark.parametrize("sql", CHANGES)
def test_a_change_that_reflection_does_not_tell_is_seen(changed: Any, sql: str) -> None:
    (line,) = changed(sql)
    start, star, _ = CHANGES[sql].partition("*")
    assert line.startswith(start) if star else line == start
