"""Whose turn it is to run an env.py: one run alone, or several of one history beside each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from itertools import takewhile

from alembic.config import Config

from automigrator.migrations.runs.inside import Acts, Inside
from automigrator.support.loggers import logger_of
from automigrator.target import Target

logger = logger_of(__name__)


class Turn:
    """One run's turn.

    `history`: that of the runs that may be beside it; None where none may. Its first run is alone,
    and shows what its env.py does to the process.
    """

    def __init__(self, target: Target, history: Hashable | None, *, alone: bool) -> None:
        self.target, self.history, self.alone = target, history, alone
        self.known: Acts | None = None
        """What the runs beside it are known to do; None for a run that is alone."""

    @property
    def may_share(self) -> bool:
        """Whether others of its history may run beside it."""
        return not self.alone and isinstance(_acts.get(self.history), dict)

    def taken(self) -> bool:
        """Whether the turn has come; those who wait ask again, and come in their order."""
        with _lock:
            if self not in _waiting:
                _waiting.append(self)
            earlier = takewhile(lambda each: each is not self, _waiting)
            if any(not self._may_be_beside(each, each.known is not None) for each in _having):
                return False
            if any(not self._may_be_beside(each, each.may_share) for each in earlier):
                return False
            _waiting.remove(self)
            _having.append(self)
            _holders[:] = _having
            acts = _acts.get(self.history)
            self.known = acts if self.may_share and isinstance(acts, dict) else None
            return True

    def _may_be_beside(self, other: Turn, shares: bool) -> bool:
        return shares and self.may_share and other.history == self.history

    def over(self) -> None:
        """End the turn, or the waiting for it."""
        with _lock:
            for turns in (_waiting, _having):
                if self in turns:
                    turns.remove(self)

    @property
    def did(self) -> Acts | None:
        """What earlier runs of its history are known to do; None where there were none."""
        acts = _acts.get(self.history) or _unsure.get(self.history)
        return acts if isinstance(acts, dict) else None

    def learn(self, inside: Inside, *, ended_well: bool) -> None:
        """Note what its run has shown of the history."""
        if self.history is None:
            return
        with _lock:
            known = _acts.get(self.history)
            if isinstance(known, str):
                return
            if inside.why_alone:
                _acts[self.history] = inside.why_alone
            elif inside.ended_early:  # the next one is alone, and shows more
                _unsure[self.history] = _acts.pop(self.history, {})
            elif self.known is None and ended_well:
                _acts[self.history] = inside.did
                _unsure.pop(self.history, None)
        if inside.why_alone:
            logger.info(
                "%s: from now on its env.py runs alone in this process: %s",
                self.target.name,
                inside.why_alone,
            )


def holder() -> str:
    """The name of a target whose turn it is, or was last, for a person."""
    with _lock:
        return _holders[0].target.name if _holders else ""


def history_of(target: Target) -> Hashable:
    """What the targets of one history have in common."""
    config, place = target.config, None
    if isinstance(config, Config):
        place = config.get_alembic_option("script_location")
        config = config.config_file_name or config.toml_file_name or ""
    return os.path.abspath(str(config)), str(place), target.section


_lock = threading.Lock()
_having: list[Turn] = []
_holders: list[Turn] = []
"""Those whose turn it was when it came to the last one."""
_waiting: list[Turn] = []
_acts: dict[Hashable, Acts | str] = {}
"""What the env.py of each history does to its process, or why it must be alone."""
_unsure: dict[Hashable, Acts | str] = {}
"""What is known of those that have shown to do more than that."""
