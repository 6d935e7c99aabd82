"""The same race without the library, for comparison: what `alembic upgrade head` makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.raced_application import COUNTED, DATA_STEP, PROCESSES, Raced

pytestmark = pytest.mark.long

ROUNDS = 6


@pytest.mark.parametrize("old", [True, False], ids=["on an old database", "on an empty one"])
def test_plain_upgrades_started_together_fail_and_repeat_the_data_step(
    new_application: Callable[..., Raced],
    record_property: Callable[[str, str], None],
    old: bool,
) -> None:
    failed, most = 0, 0
    for _ in range(ROUNDS):
        raced = new_application(started=old)
        raced.traced(COUNTED, DATA_STEP)
        ended = raced.together(raced.start_of(plain=True))
        failed += sum(bool(each.error) for each in ended)
        most = max(most, len(raced.rows("SELECT pid FROM counted")))
    total = ROUNDS * PROCESSES
    where = "an old database" if old else "an empty one"
    record_property("result", f"on {where} {failed} of {total} failed, data step {most} times")
    assert failed > ROUNDS
