"""One call of the command, from its arguments to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click

from automigrator.cli import factory
from automigrator.cli.confirmation import confirm
from automigrator.cli.display import shown
from automigrator.cli.options import Options
from automigrator.cli.output import Answer, Output, text_of
from automigrator.cli.source import Found, Source, found
from automigrator.errors import (
    AutomigratorError,
    ConfigurationError,
    LockTimeoutError,
    MigrationError,
    StoppedError,
)
from automigrator.exits import Exit, of_error
from automigrator.failure import KINDS
from automigrator.migrator import Migrator
from automigrator.runner.modes import Mode
from automigrator.runner.signals import STOPPING, until_signalled
from automigrator.support import urls

LOOKS = frozenset({"check", "status", "plan", "doctor", "plugins", "explain"})
"""Commands that change nothing, whenever they are stopped."""


class OvertimeError(AutomigratorError):
    """Raised when a command took longer than `--timeout`."""

    kind = "timeout"


class Call:
    """What a command's work is given: the migrator, what was asked for, where to print."""

    def __init__(self, migrator: Migrator, options: Options, output: Output, folder: Path) -> None:
        self.migrator, self.options, self.output = migrator, options, output
        self.folder = folder
        """Where the application's modules are imported from."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the targets that the command is about."""
        return tuple(target.name for target in self.migrator.targets)

    def only_target(self) -> str:
        """The name of the one target that the command is about. Raises UsageError."""
        if len(self.names) > 1:
            raise click.UsageError(f"say which with --target: {', '.join(self.names)}")
        return self.names[0]

    async def confirm(self, what: str, *names: str, shown: object = "") -> None:
        """Have the names of targets typed before something is changed; see `confirm`.

        `what`: the act. `shown`: how the targets stand. `names`: default: all targets'.
        """
        await confirm(self.output, self.options, names or self.names, what, str(shown))

    def shown(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Context manager: show what happens."""
        return shown(self.migrator, self.output)


Work = Callable[[Call], Awaitable[Answer]]


class Subject(ABC):
    """What a command is about, from its description to the answer."""

    def __init__(self, options: Options, output: Output, command: str) -> None:
        self.options, self.output, self.command = options, output, command

    @abstractmethod
    def found(self) -> Found:
        """Find its description. Raises ConfigurationError, and UsageError."""

    @abstractmethod
    def made(self, source: Source) -> object:
        """Make it, outside an event loop, or what is awaited for it. Raises ConfigurationError."""

    @abstractmethod
    async def answer(
        self, value: Any, source: Source, left: Left, limit: asyncio.Timeout
    ) -> Answer:
        """Do the work. `left`: the seconds that `--timeout` leaves; `limit` keeps it."""

    @abstractmethod
    def how_far(self) -> str:
        """How far the work is, for one that was stopped."""


Left = Callable[[], "float | None"]


def answered(context: click.Context, work: Work, mode: Mode = "migrate") -> int:
    """Make the migrator, let the work be done, print the answer; returns the exit code."""
    return answered_by(context, partial(_OfMigrator, work, mode))


def answered_by(context: click.Context, subject: Callable[[Options, Output, str], Subject]) -> int:
    """Find what the command is about, let the work be done, print the answer."""
    options = context.ensure_object(Options)
    command = name_of(context)
    with closing(output := Output(options, command)):
        try:
            answer = _done(subject(options, output, command))
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - any error is an answer
            return told(output, error, command)
        return output.answer(answer)


def answered_without(context: click.Context, work: Callable[[], Answer]) -> int:
    """Print the answer of work that needs no migrator; returns the exit code."""
    with closing(output := Output(context.ensure_object(Options), name_of(context))):
        try:
            answer = work()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - as above
            return told(output, error, name_of(context))
        return output.answer(answer)


def name_of(context: click.Context) -> str:
    """The command's name, `snapshots list`, say."""
    return context.command_path.partition(" ")[2]


def told(output: Output, error: BaseException, command: str) -> int:
    """Print an error; returns the exit code."""
    code = Exit.MISCONFIGURED if isinstance(error, click.UsageError) else of_error(error)
    if isinstance(error, KeyboardInterrupt):
        return output.failure(error, code, f"{command}: interrupted; nothing was done")
    advice = [str(getattr(error, "advice", ""))]
    if (kind := _kind_of(error)) is not None:
        advice.append(f"automigrator explain {kind}")
    if isinstance(error, MigrationError):
        advice.append(
            "automigrator doctor looks closer, and --traceback shows the errors behind this one"
        )
    return output.failure(error, code, text_of(error), "; ".join(filter(None, advice)))


def _kind_of(error: BaseException) -> str | None:
    """The kind of failure that `explain` tells more of; None where there is none."""
    match error:
        case MigrationError():
            failed = [each for each in error.report.targets if each.outcome == "failed"]
            return failed[0].failures[-1].kind if failed else None
        case ConfigurationError():  # the command's, and no failure of a run
            return None
        case LockTimeoutError():
            return "lock-timeout"
    kind = getattr(error, "kind", None)
    return kind if kind in KINDS else None


class _OfMigrator(Subject):
    """The application's migrator, or one of a URL."""

    def __init__(
        self, work: Work, mode: Mode, options: Options, output: Output, command: str
    ) -> None:
        super().__init__(options, output, command)
        self._work, self._mode = work, mode
        self._migrator: Migrator | None = None

    def found(self) -> Found:
        return found(self.options, os.environ, Path.cwd())

    def made(self, source: Source) -> object:
        return factory.made(source)

    async def answer(
        self, value: Any, source: Source, left: Left, limit: asyncio.Timeout
    ) -> Answer:
        self._migrator = migrator = await factory.awaited(value, source)
        options = self.options
        try:
            factory.narrowed(migrator, options.target, options.x)
            self.output.secrets += tuple(_secrets(migrator))
            if self.command in ("run", "wait"):
                run_s = left()  # the run's own limit tells more, and undoes what is under way
                limit.reschedule(None)
            else:
                run_s = None
            given = f"--timeout {options.timeout:g}" if run_s is not None else ""
            factory.prepared(migrator, self._mode, run_s, given)
            return await self._work(Call(migrator, options, self.output, source.folder))
        finally:
            await factory.close(migrator.targets)

    def how_far(self) -> str:
        if self._migrator is None or self.command in LOOKS:
            return "nothing was changed"
        return self._migrator._how_far or "automigrator status shows how the database stands"


def _done(subject: Subject) -> Answer:
    options, command = subject.options, subject.command
    began = time.monotonic()
    # without a handler of the application's, records of ours would be printed a second time
    logging.getLogger("automigrator").addHandler(logging.NullHandler())

    def left() -> float | None:
        spent = time.monotonic() - began
        return None if options.timeout is None else max(options.timeout - spent, 0.001)

    def how_far() -> str:
        return "nothing was changed" if subject.output.asking else subject.how_far()

    async def limited() -> Answer:
        try:
            async with asyncio.timeout(left()) as limit:
                return await subject.answer(value, source, left, limit)
        except TimeoutError as error:
            if not limit.expired():
                raise
            seconds = f"--timeout {options.timeout:g}"
            raise OvertimeError(
                f"{command} took longer than {seconds} and was cancelled; {how_far()}"
            ) from error

    # not later: the first process of a container has no other handler while it imports
    with _Early() as early:
        try:
            source = _told(subject.found(), options, subject.output)
            value = subject.made(source)
        except (Exception, KeyboardInterrupt):
            if not early.came:
                raise
            raise _stopped(command, early.came[0], how_far()) from None
        early.raises = False

        async def listening() -> Answer:
            if early.came:
                raise StoppedError("", early.came[0])
            return await until_signalled(limited(), lambda: "")

        try:
            return asyncio.run(listening())
        except StoppedError as error:
            raise _stopped(command, error.signal, how_far()) from None


def _stopped(command: str, number: int, how_far: str) -> StoppedError:
    return StoppedError(f"{command}: stopped by {signal.Signals(number).name}; {how_far}", number)


def _told(seen: Found, options: Options, output: Output) -> Source:
    """Say which files are read and which are not."""
    source = seen.source
    for each in seen.ignored:
        output.note(each)
    if options.verbose or source.always_told:
        what = source.app or f"{source.config} for {urls.rendered(source.url)}"  # type: ignore[arg-type]
        output.note(f"using {what} ({source.origin})")
    output.flush()  # what follows may ask for a password
    return source


def _secrets(migrator: Migrator) -> Iterator[str]:
    from automigrator.target import passwords_of

    for target in migrator.targets:
        yield from passwords_of(target)


class _Early:
    """Context manager: a signal does not end the process, which still has to answer.

    While `raises`, it interrupts what the process does, an import, say; then it only counts. A
    terminal that goes away is a SIGTERM; what is ignored, as `nohup` does, stays ignored.
    """

    def __init__(self) -> None:
        self.raises = True
        self.came: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Early:
        for number in (*STOPPING, signal.SIGHUP):
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._gone if number == signal.SIGHUP else self._noted)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _noted(self, number: int, frame: FrameType | None) -> None:
        self.came.append(number)
        if self.raises:
            raise KeyboardInterrupt

    def _gone(self, number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)


def invoked(group: click.Group, arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    try:
        code = group.main(list(arguments), prog_name="automigrator", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return Exit.MISCONFIGURED
    except (click.ClickException, click.Abort) as error:
        return _misused(error, arguments)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    return int(code or 0)


def _misused(error: click.ClickException | click.Abort, arguments: Sequence[str]) -> int:
    """Print what is wrong with the arguments, as JSON where they ask for it."""
    options = Options()
    options.json = "--json" in arguments
    context = getattr(error, "ctx", None)
    with closing(Output(options, name_of(context) if context is not None else "")) as output:
        if isinstance(error, click.Abort):
            return output.failure(error, Exit.INTERRUPTED, "interrupted; nothing was done")
        if context is not None and not options.json:
            output.note(context.get_usage())
            output.note(f"Try '{context.command_path} --help' for help.\n")
        return output.failure(error, Exit.MISCONFIGURED, text_of(error))
