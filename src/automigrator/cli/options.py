"""The options that every command takes, before its name and after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from automigrator.errors import ConfigurationError
from automigrator.timeouts import check

F = TypeVar("F", bound=Callable[..., Any])


class Options:
    """What was given for all commands; what is given twice counts as given last."""

    def __init__(self) -> None:
        self.app: str | None = None
        self.app_dir: Path | None = None
        self.url: str | None = None
        self.url_file: Path | None = None
        self.ask_password = False
        self.config: Path | None = None
        self.name: str | None = None
        self.target: tuple[str, ...] = ()
        self.x: tuple[str, ...] = ()
        self.timeout: float | None = None
        self.yes = False
        self.json = False
        self.verbose = False
        self.traceback = False

    def take(self, name: str, value: Any) -> None:
        """Keep what was given; of what may be given several times, all."""
        before = getattr(self, name)
        setattr(self, name, before + value if isinstance(before, tuple) else value)


def _taken(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value not in (None, (), False):
        assert parameter.name is not None
        context.ensure_object(Options).take(parameter.name, value)


def _seconds(context: click.Context, parameter: click.Parameter, value: float | None) -> None:
    try:
        check("run", "--timeout", value)
    except ConfigurationError:
        raise click.BadParameter("it is seconds above zero") from None
    _taken(context, parameter, value)


class CommonOption(click.Option):
    """An option that every command takes; a command's help lists its own before these."""


def _option(*names: str, **how: Any) -> Callable[[F], F]:
    how = {"callback": _taken, **how}
    return click.option(*names, cls=CommonOption, expose_value=False, **how)


_PATH = click.Path(path_type=Path)

_COMMON = (
    _option("--app", metavar="MODULE:NAME", help="The application's own Migrator, or a factory."),
    _option("--app-dir", type=_PATH, metavar="DIR", help="Where to import it from; default: here."),
    _option("--url", metavar="URL", help="One database, without a password."),
    _option("--url-file", type=_PATH, metavar="FILE", help="A file of mode 0600 with the URL."),
    _option("--ask-password", is_flag=True, help="Ask for the URL's password."),
    _option("--config", type=_PATH, metavar="FILE", help="Its alembic.ini; default: the one here."),
    _option("--name", metavar="NAME", help="Its name; default: the database's."),
    _option("--target", multiple=True, metavar="NAME", help="Only this target; repeatable."),
    _option("-x", multiple=True, metavar="KEY=VALUE", help="As `alembic -x`; never shown."),
    _option(
        "--timeout",
        type=float,
        callback=_seconds,
        metavar="SECONDS",
        help="For the whole command.",
    ),
    _option("--yes", is_flag=True, help="Do not ask before data is changed or deleted."),
    _option("--json", is_flag=True, help="Print one JSON document, and nothing else, on stdout."),
    _option("-v", "--verbose", is_flag=True, help="Say where the migrator comes from."),
    _option("--traceback", is_flag=True, help="Show the chain of errors behind a failure."),
)


def common(command: F) -> F:
    """Give a command or group the options that all have."""
    for option in reversed(_COMMON):
        command = option(command)
    return command


class Command(click.Command):
    """A command whose help lists its own options first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_options(self, ctx, formatter)


class Group(click.Group):
    """A group of commands whose help lists its own options first."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


Group.group_class = Group


def _write_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    for title, of_all in (("Options", False), ("Options of every command", True)):
        records = [
            record
            for each in command.get_params(ctx)
            if isinstance(each, click.Option)
            and isinstance(each, CommonOption) is of_all
            and (record := each.get_help_record(ctx)) is not None
        ]
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
