"""Behind PgBouncer: a lock is refused where it would be an illusion, and taken where it is real."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.notes_application import GOOD, ROWS
from support.pgbouncer import BINARY, pooled
from support.raced_application import FULL, PROCESSES, Raced, outcomes

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="pgbouncer is not installed"),
    pytest.mark.parametrize("kind_of_database", ["postgresql"]),
    pytest.mark.long("session_mode"),
]

# asyncpg's prepared statements outlive a transaction, in which the pooler gave it its session
UNPREPARED = {"connect_args": {"statement_cache_size": 0, "prepared_statement_cache_size": 0}}


@pytest.mark.long
def test_transaction_mode_is_refused_and_a_direct_url_for_migrations_is_the_way_out(
    raced: Raced, pooler_folder: Path
) -> None:
    raced.traced(GOOD)
    direct = raced.url
    with pooled(direct, pooler_folder, "transaction") as url:
        raced.url = url
        refused = raced.together(raced.start_of(engine=UNPREPARED, lock_timeout=10))
        assert outcomes(refused) == {"failed": PROCESSES}
        for each in refused:
            assert each.kinds == ["unreachable"]
            assert "is reached through a pooler" in each.text
            assert "Target(migrate_with=" in each.text
        assert raced.trace == []
        raced.url = url
        ended = raced.together(raced.start_of(engine=UNPREPARED, migrate_with=direct))
        assert outcomes(ended) == {"current": PROCESSES - 1, "migrated": 1}
    raced.url = direct
    assert (raced.heads, raced.notes()) == ({"r2"}, ROWS)


def test_session_mode_is_as_good_as_no_pooler_even_with_fewer_sessions_than_processes(
    raced: Raced, pooler_folder: Path
) -> None:
    raced.traced(GOOD)
    direct = raced.url
    with pooled(direct, pooler_folder, "session") as url:
        raced.url = url
        ended = raced.together(raced.start_of(), 8 if FULL else 1)
    raced.url = direct
    assert outcomes(ended).pop("migrated") == 1
    assert {each.outcome for each in ended} <= {"migrated", "current"}, ended
    assert raced.heads == {"r2"}
