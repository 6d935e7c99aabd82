"""The commands: a run, and what is asked of databases besides."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from automigrator._version import __version__
from automigrator.cli import explanation, plugins
from automigrator.cli.edits import accept
from automigrator.cli.factory import named
from automigrator.cli.fleet import fleet
from automigrator.cli.invocation import Call, answered, answered_without
from automigrator.cli.options import Group, Options, common
from automigrator.cli.output import Answer
from automigrator.cli.rehearsal import rehearse
from automigrator.cli.schema import schema
from automigrator.cli.snapshots import snapshots
from automigrator.errors import AutomigratorError, ConfigurationError, RefusedError
from automigrator.exits import Exit, of_report, of_status
from automigrator.failure import KINDS, FailureKind
from automigrator.printable import escaped, escaped_lines
from automigrator.report import Report, heads_text
from automigrator.runner.modes import Mode
from automigrator.status import Plan, Status, TargetStatus

_ENDINGS = (
    "Exit codes: 0 done, 2 misconfigured or wrong usage, 3 pending, 4 degraded, 5 failed, "
    "6 locked, 7 refused, 130 and 143 interrupted."
)


@click.group(cls=Group, epilog=_ENDINGS, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="automigrator", message="%(prog)s %(version)s")
@common
def automigrator() -> None:
    """Bring an application's databases to the revision its code expects.

    The migrator is the application's own (--app), or one database and its Alembic configuration
    (--url, --config); without either, [tool.automigrator] in pyproject.toml or the environment
    says.
    """


@automigrator.command()
@common
@click.pass_context
def run(context: click.Context) -> int:
    """Migrate every target.

    RUN_MIGRATIONS is ignored: calling the command is the permission. The exit code says how it
    ended.
    """
    return answered(context, partial(_run, mode="migrate"), "migrate")


@automigrator.command()
@common
@click.pass_context
def wait(context: click.Context) -> int:
    """Wait until another process has migrated.

    Nothing is changed. For a process that needs the database and must not migrate it.
    """
    return answered(context, partial(_run, mode="wait"), "wait")


async def _run(call: Call, mode: Mode) -> Answer:
    async with call.shown():
        report = await call.migrator.run()
    return _of_report(report)


def _of_report(report: Report) -> Answer:
    if report.outcome == "skipped":
        raise RefusedError(
            "the migrator's is_enabled() says that it does not migrate; nothing was changed"
        )
    return Answer(report, str(report), of_report(report))


@automigrator.command()
@click.option(
    "--models",
    multiple=True,
    metavar="[TARGET=]MODULE:NAME",
    help="Models to compare with the database, a Base or a MetaData; repeatable.",
)
@common
@click.pass_context
def check(context: click.Context, models: tuple[str, ...]) -> int:
    """Answer by exit code: is all up to date?

    0 where every database is, 3 where something is pending. Nothing is changed.
    """

    async def work(call: Call) -> Answer:
        compared = _models(models, call) if models else None
        status = await call.migrator.check(models=compared)
        return _of_status(status, of_status(status))

    return answered(context, work)


def _models(given: Sequence[str], call: Call) -> dict[str, Any]:
    """The models of each target. Raises ConfigurationError."""
    found: dict[str, Any] = {}
    for each in given:
        target, equals, path = each.rpartition("=")
        target = target if equals else call.only_target()
        if ":" not in path:
            raise click.UsageError(f"--models {each}: should be package.module:Base")
        value = named(path, call.folder, "the models that --models names")
        value = getattr(value, "metadata", value)
        if not hasattr(value, "sorted_tables"):
            raise ConfigurationError(
                f"--models {path} is a {type(value).__name__}, and should be a declarative Base or "
                "a MetaData; nothing was done"
            )
        found.setdefault(target, []).append(value)
    return found


@automigrator.command()
@common
@click.pass_context
def status(context: click.Context) -> int:
    """Show how every database stands.

    Nothing is changed. The exit code is 0 for every answer: see check for a verdict.
    """

    async def work(call: Call) -> Answer:
        return _of_status(await call.migrator.check(), Exit.OK)

    return answered(context, work)


def _of_status(status: Status, code: Exit) -> Answer:
    return Answer(status, str(status), code, partial(_status_table, status))


def _status_table(status: Status, cell: Callable[[object], Text]) -> Table:
    table = Table("target", "state", "at", "wanted", "pending", box=None, header_style="bold")
    for each in status.targets:
        pending = f"{len(each.pending)}: {', '.join(each.pending)}" if each.pending else ""
        cells = [each.name, _state(each), heads_text(each.heads), heads_text(each.wanted), pending]
        table.add_row(*map(cell, cells))
    grid = Table.grid()
    grid.add_row(table)
    for each in status.targets:
        besides = each.notes, each.drift, each.unfinished, each.failed_starts
        if each.problem is not None or any(besides):
            grid.add_row(Text(""))
            grid.add_row(cell(each))
    return grid


def _state(status: TargetStatus) -> str:
    if status.problem is not None:
        return status.problem.kind
    if not status.exists:
        return "absent"
    if status.unfinished:
        return "unfinished"
    if status.drift:
        return "models differ"
    return "pending" if status.pending else "current"


@automigrator.command()
@click.option("--sql", is_flag=True, help="Show the SQL of the pending revisions.")
@common
@click.pass_context
def plan(context: click.Context, sql: bool) -> int:
    """List the pending revisions, in order.

    Nothing is changed, and no revision is run.
    """

    async def work(call: Call) -> Answer:
        try:
            plans = await call.migrator.plan(sql=sql)
        except ConfigurationError:
            raise
        except Exception as error:
            # what looking raises is for programs; for people there is what `check` makes of it
            problem = _problem(await call.migrator.check())
            if problem is None:
                raise
            raise problem from error
        text = "\n".join(map(_sql_of if sql else str, plans))
        return Answer(plans, text)

    return answered(context, work)


def _sql_of(plan: Plan) -> str:
    """The SQL of a plan as a script: all else is a comment."""
    lines = str(plan._replace(sql=None)).splitlines()
    return "\n".join([*(f"-- {line}" for line in lines), plan.sql or ""])


class NoPlanError(AutomigratorError):
    """Raised where a target has a problem, and no plan therefore."""

    def __init__(self, message: str, kind: FailureKind) -> None:
        super().__init__(message)
        self.kind = kind

    def __str__(self) -> str:
        return escaped_lines(*self.args)


def _problem(status: Status) -> NoPlanError | None:
    for each in status.targets:
        if each.problem is not None:
            return NoPlanError(str(each), each.problem.kind)
    return None


@automigrator.command(context_settings={"ignore_unknown_options": True})
@click.argument("revision")
@common
@click.pass_context
def rollback(context: click.Context, revision: str) -> int:
    """Downgrade one target, under its lock.

    REVISION is what Alembic takes: an id, base, or -1 for one revision back.
    """
    if revision.startswith("-") and not re.fullmatch(r"-\d+", revision):
        raise click.NoSuchOption(revision, ctx=context)

    async def work(call: Call) -> Answer:
        name = call.only_target()
        stands = await call.migrator.check()
        await call.confirm(
            f"Rolling {escaped(name)} back to {escaped(revision)} runs the downgrades of its "
            "revisions, which may delete data",
            shown=stands,
        )
        async with call.shown():
            report = await call.migrator.rollback(revision, target=name)
        return Answer(report, str(report))

    return answered(context, work)


@automigrator.command()
@click.option(
    "--declarations",
    is_flag=True,
    help="Forget which older code works with the database, too: it is refused then.",
)
@common
@click.pass_context
def clear(context: click.Context, declarations: bool) -> int:
    """Forget recorded failures and failed starts.

    The next start tries again. Which older code works with the database (compatible_with) stays
    known, unless --declarations says so.
    """

    async def work(call: Call) -> Answer:
        listed = ", ".join(map(escaped, call.names))
        what = "recorded failures and the count of failed starts"
        if declarations:
            what += ", and which older code works with the database,"
        await call.confirm(f"The {what} of {listed} are forgotten")
        for name in call.names:
            await call.migrator.clear(target=name, declarations=declarations)
        lines = [f"{escaped(name)}: cleared; the next start tries again" for name in call.names]
        return Answer({"cleared": list(call.names)}, "\n".join(lines))

    return answered(context, work)


@automigrator.command()
@click.option("--repair", is_flag=True, help="Remove what is provably debris.")
@common
@click.pass_context
def doctor(context: click.Context, repair: bool) -> int:
    """Examine every database closely.

    The lock and its holder, open journals, failed starts, copies that are kept, debris. Nothing
    is changed, unless --repair says so.
    """

    async def work(call: Call) -> Answer:
        found = await call.migrator.doctor()
        debris = [name for name in call.names if any(e.provable for e in found[name].debris)]
        if repair and debris:
            await call.confirm("What is provably debris is removed", *debris, shown=found)
            found = await call.migrator.doctor(repair=True)
        return Answer(found, str(found))

    return answered(context, work)


@automigrator.command("plugins")
@click.option("--all", "load", is_flag=True, help="Import those that nobody names, too.")
@common
@click.pass_context
def list_plugins(context: click.Context, load: bool) -> int:
    """List plugins, and what each may do.

    From which distribution each comes, and for which targets it is asked.
    """

    async def work(call: Call) -> Answer:
        return plugins.listed(call.migrator, load)

    options = context.ensure_object(Options)
    if plugins.has_no_source(options):
        return answered_without(context, lambda: plugins.listed(None, load))
    return answered(context, work)


@automigrator.command()
@click.argument("kind", type=click.Choice(sorted(KINDS)), required=False, metavar="[KIND]")
@common
@click.pass_context
def explain(context: click.Context, kind: str | None) -> int:
    """Explain a kind of failure.

    KIND is what a report calls it; without it, all kinds are listed.
    """
    return answered_without(context, partial(explanation.explained, kind))


automigrator.add_command(accept)
automigrator.add_command(rehearse)
automigrator.add_command(schema)
automigrator.add_command(snapshots)
automigrator.add_command(fleet)
