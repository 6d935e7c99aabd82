"""Shows a run while it goes on: one line a target on a terminal, a line a step elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from automigrator.cli.output import Output
from automigrator.events.catalogue import CATALOGUE
from automigrator.printable import escaped
from automigrator.support.secrets import masked

if TYPE_CHECKING:
    from automigrator.events.event import Event
    from automigrator.events.stream import Subscription
    from automigrator.migrator import Migrator

TICK_S = 0.125
"""Seconds between two pictures on a terminal."""

HEARTBEAT_S = 10.0
"""Seconds after which a step that goes on is told again."""

_WIDE_ENOUGH_FOR_A_BAR = 60

_LOUD = {"target-started": "looking", "run-finished": ""}
"""What the sentences of the log say otherwise, or not at all."""


class View(Protocol):
    """A way to show events."""

    def tell(self, event: Event) -> None:
        """Show one event."""

    def tick(self) -> None:
        """Show that time goes by."""

    def __enter__(self) -> View:
        """Begin to show."""

    def __exit__(self, *error: object) -> None:
        """Show nothing more."""


@asynccontextmanager
async def shown(migrator: Migrator, output: Output) -> AsyncIterator[None]:
    """Context manager: show what happens to the targets on stderr; nothing it does fails a run."""
    subscription = migrator.events()
    with Picture(output) if output.live else Lines(output) as view:
        task = asyncio.create_task(_follow(subscription, view))
        try:
            yield
        finally:
            subscription.end()
            await task


async def _follow(subscription: Subscription, view: View) -> None:
    ended = False
    while not ended:
        try:
            async with asyncio.timeout(TICK_S):
                view.tell(await anext(subscription))
                continue
        except TimeoutError:
            pass
        except StopAsyncIteration:
            ended = True
        view.tick()


def sentence(event: Event) -> str:
    """What an event means to a person, without its target; empty where the end tells it better."""
    declared = CATALOGUE.get(event.name)
    if event.name in _LOUD or declared is None or not declared.sentence:
        return _LOUD.get(event.name, "")
    if declared.level_for(event.data) < logging.INFO:
        return ""
    if event.name == "revision-started":
        return "revision {index} of {total}, {revision}".format(**event.data)
    return declared.said(None, event.data, None)


class Lines:
    """A line a step, and one every ten seconds while a step goes on."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._failed: str | None = None
        self._step, self._began, self._told = "", 0.0, time.monotonic()

    def tell(self, event: Event) -> None:
        name = f"{escaped(event.target)}: " if event.target else ""
        if event.name == "failed":  # the last one is told at the end, and only there
            self._failed = f"{name}failed: {event.data['kind']}: {event.data['message']}"
            return
        text = sentence(event)
        if event.name == "target-finished":
            self._step = ""
        if not text or event.name == "passed":
            return
        if self._failed is not None and event.target:
            self._say(self._failed)
            self._failed = None
        self._step, self._began = name + text, time.monotonic()
        self._say(self._step)
        if event.name == "waiting":  # it says itself for how long
            self._step = f"{name}waiting for {escaped(event.data['what'])}"
            self._began -= event.data["seconds"]

    def tick(self) -> None:
        now = time.monotonic()
        if self._step and now - self._told >= HEARTBEAT_S:
            self._say(f"{self._step}, {now - self._began:.0f} s so far")

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: object) -> None: ...

    def _say(self, text: str) -> None:
        self._told = time.monotonic()
        self._output.note(text.replace("\n", " "))


class Row:
    """How one target stands."""

    def __init__(self) -> None:
        self.text, self.began = "", time.monotonic()
        self.done, self.total = 0, 0
        self.ended = False


class Picture:
    """One line a target, drawn again and again: what is done, how far it is, for how long."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._rows: dict[str, Row] = {}
        self._spinner = Spinner("dots")
        self._live = Live(
            self,
            console=output.errors,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def tell(self, event: Event) -> None:
        if event.target is None and event.name != "waiting":
            return
        row = self._rows.setdefault(event.target or "all", Row())
        text = sentence(event)
        if event.name == "failed":
            text = f"failed: {event.data['kind']}"
        elif event.name == "target-finished":
            text, row.ended = event.data["outcome"], True
        elif event.name == "revision-started":
            row.done, row.total = event.data["index"] - 1, event.data["total"]
        elif event.name == "revision-done":
            row.done += 1
            return
        if text and text != row.text:
            row.text, row.began = text, time.monotonic()

    def tick(self) -> None:
        self._live.refresh()

    def __enter__(self) -> View:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def __rich__(self) -> Table:
        width = self._output.errors.width - len("^C ")  # a terminal echoes it, and may wrap
        table = Table.grid(padding=(0, 1))
        table.width = width
        table.add_column(width=1)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(8, width // 4))
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        bar = width >= _WIDE_ENOUGH_FOR_A_BAR
        if bar:
            table.add_column(width=16)
        table.add_column(no_wrap=True, justify="right")
        for name, row in self._rows.items():
            mark = Text("·") if row.ended else self._spinner
            cells: list[RenderableType] = [mark, self._text(name, "bold"), self._text(row.text)]
            if bar:
                cells.append(ProgressBar(row.total, row.done, width=16) if row.total else Text(""))
            seconds = "" if row.ended else f"{time.monotonic() - row.began:.0f} s"
            table.add_row(*cells, Text(seconds))
        return table

    def _text(self, text: str, style: str = "") -> Text:
        return Text(escaped(masked(text, *self._output.secrets)), style=style)
