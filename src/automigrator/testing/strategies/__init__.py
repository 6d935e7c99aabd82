"""The suite that a recovery strategy's tests inherit."""

from __future__ import annotations

from automigrator.testing.strategies.configuration import Manners
from automigrator.testing.strategies.decisions import Answers
from automigrator.testing.strategies.interruptions import Interruptions


class StrategyConformance(Answers, Interruptions, Manners):
    """The cases that every recovery strategy passes; ours do.

    Give an installed strategy's `name` and `options`, or define `make()` for one in-house; the
    class is at the top level of its module, where processes of their own find it. `databases` says
    on which, `deletes_old_data` that nothing is set aside, as configured. `kills` and
    `longest_stall_s` are limits to widen.
    """

    __test__ = False


__all__ = ["StrategyConformance"]
