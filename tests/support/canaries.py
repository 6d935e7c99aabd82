"""Secrets that the tests' databases hold, and a watch over everything that must not repeat them."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import make_url

from automigrator.errors import MigrationError
from automigrator.support.error_chain import chain
from automigrator.testing.databases import CANARY

PASSWORD = "canary-password-5e1c/@:%"
"""What a server that asks for none is given; a URL writes the end of it otherwise."""
ROW = "canary-row-5e1c"
"""What rows and statements' parameters hold, and the source of no revision does."""
AROUND = 60
"""Characters of what leaked that are shown on either side."""
_SHORTEST = 8


def marks() -> tuple[str, ...]:
    """What is looked for: the same in every spelling."""
    dsn = os.environ.get("AUTOMIGRATOR_TEST_POSTGRES")
    theirs = str(make_url(dsn).password or "") if dsn else ""
    own = (PASSWORD.removesuffix("/@:%"), ROW, CANARY)
    return (*own, theirs) if len(theirs) >= _SHORTEST else own


@dataclass
class Watch:
    """What was looked at, by channel, and what leaked since it was last asked."""

    checked: Counter[str] = field(default_factory=Counter)
    leaks: dict[tuple[str, str], None] = field(default_factory=dict)
    marks: tuple[str, ...] = field(default_factory=marks)

    def look(self, channel: str, *texts: object) -> None:
        """Look for a canary in what goes out by a channel."""
        self.checked[channel] += 1
        for each in texts:
            text = str(each)
            for mark in self.marks:
                if (at := text.find(mark)) >= 0:
                    # the name alone: what reports a leak is read as well
                    shown = text[max(at - AROUND, 0) : at + len(mark) + AROUND]
                    self.leaks[channel, shown.replace(mark, "<the canary>")] = None

    def leaked(self) -> list[tuple[str, str]]:
        """The channel and the surroundings of each leak; forgotten once asked."""
        found, self.leaks = list(self.leaks), {}
        return found


WATCH = Watch()
"""This process's."""


def printed(error: BaseException) -> str:
    """An error and all that led to it, as a traceback and `%r` print them, less the source code."""
    # a revision's author may write anything in its source: that is no row
    reports = error.report.targets if isinstance(error, MigrationError) else ()
    behind = [failure.error for report in reports for failure in report.failures]
    told: list[str] = []
    for one in filter(None, [error, *behind]):
        told += traceback.TracebackException.from_exception(one, limit=0).format()
        told += [f"{each!r}\n" for each in chain(one)]
    return "".join(told)
