"""Asks a person before data is changed or deleted: the target's name, typed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import click

from automigrator.cli.options import Options
from automigrator.cli.output import Output
from automigrator.errors import RefusedError


async def confirm(
    output: Output, options: Options, names: Sequence[str], what: str, shown: str
) -> None:
    """Have each target's name typed, unless `--yes` was given.

    `what` says what is about to happen, `shown` how the targets stand. Raises RefusedError for
    another answer, and UsageError where nobody is there to answer.
    """
    if options.yes:
        return
    if not output.asks:
        raise click.UsageError(
            f"there is no terminal to ask on; nothing was done. Add --yes to do this: {what}"
        )
    output.note("\n".join(filter(None, (shown, f"{what}."))))
    with output.question():
        for name in names:
            output.prompt(f"Type the target's name ({output.safe(name)}) to go on: ")
            typed = ""
            try:
                typed = await _line(sys.stdin.fileno())
            finally:
                if not typed:
                    output.prompt("\n")  # what is told next begins a line
            if not typed:
                raise RefusedError("nothing was typed; nothing was changed")
            if typed.strip() != name:
                raise RefusedError("that is not the target's name; nothing was changed")


async def _line(terminal: int) -> str:
    """A line that is typed; empty at the end. The loop goes on, so a signal or a limit is heard."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(terminal, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(terminal)
    return os.read(terminal, 4096).decode(errors="replace")
