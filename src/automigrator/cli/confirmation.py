"""Asks a person before data is changed or deleted: the target's name, typed."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

from automigrator.cli.options import Options
from automigrator.cli.output import Output
from automigrator.errors import RefusedError, StoppedError
from automigrator.runner.signals import STOPPING


class UnansweredError(StoppedError):
    """Raised when a signal comes in the place of an answer."""


def confirm(output: Output, options: Options, names: Sequence[str], what: str, shown: str) -> None:
    """Have each target's name typed, unless `--yes` was given.

    `what` says what is about to happen, `shown` how the targets stand. Raises RefusedError for
    another answer, UsageError where nobody is there to answer, UnansweredError for a signal.
    """
    if options.yes:
        return
    if not output.asks:
        raise click.UsageError(
            f"{what}, and there is no terminal to ask on; nothing was done. Add --yes to do it"
        )
    output.note("\n".join(filter(None, (shown, f"{what}."))))
    output.flush()
    for name in names:
        with _interruptible():
            typed = click.prompt(
                f"Type the target's name ({output.safe(name)}) to go on",
                default="",
                show_default=False,
                err=True,
            )
        if typed.strip() != name:
            raise RefusedError("that is not the target's name; nothing was changed")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Context manager: a signal ends the question, which no cancellation would."""

    def stop(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise UnansweredError(f"stopped by {name}; nothing was changed", number)

    before = {each: signal.signal(each, stop) for each in STOPPING}
    try:
        yield
    except (EOFError, click.Abort):
        raise RefusedError("nothing was typed; nothing was changed") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
