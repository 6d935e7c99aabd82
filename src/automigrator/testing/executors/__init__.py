"""The suite that an executor's tests inherit."""

from __future__ import annotations

from automigrator.testing.executors.losses import Losses
from automigrator.testing.executors.rollouts import Rollouts


class ExecutorConformance(Rollouts, Losses):
    """The cases that every executor passes; ours do.

    Define `make()`, or override `running()` where an executor needs workers that somebody else
    starts. `capacity` is the number of tenants that it may hold at a time, `offers` says whether
    tenants are brought in other processes, and `frozen_on` on which databases the tenants of a
    frozen worker are finished while it is still frozen.
    """

    __test__ = False


__all__ = ["ExecutorConformance"]
