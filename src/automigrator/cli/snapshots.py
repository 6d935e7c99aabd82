"""The commands about snapshots: list, take, restore, prune."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from rich.table import Table
from rich.text import Text

from automigrator.backends.contract.snapshots import Copying, Snapshot
from automigrator.cli.invocation import Call, answered
from automigrator.cli.options import Group, common
from automigrator.cli.output import Answer, json_of
from automigrator.printable import escaped, joined
from automigrator.retention import Limits
from automigrator.runner.operations.snapshots import newest

F = TypeVar("F", bound=Callable[..., Any])

_NUMBER = click.IntRange(min=1)


def _days(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    try:
        Limits(None, value)
    except (ValueError, OverflowError):
        raise click.BadParameter("it is days above zero") from None
    return value


def folder_option(command: F) -> F:
    """Give a command the option that says where else copies are."""
    return click.option(
        "--folder",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Where copies are, besides the usual place and the strategies' own folders.",
    )(command)


def disconnect_option(command: F) -> F:
    """Give a command the option that ends sessions."""
    return click.option(
        "--disconnect-others",
        is_flag=True,
        help="End the sessions that are in the way (PostgreSQL).",
    )(command)


@contextmanager
def _telling(call: Call, lines: Sequence[str]) -> Iterator[None]:
    """Context manager: where the act for one target fails, tell what was done for others."""
    try:
        yield
    except BaseException:
        for line in lines:
            call.output.note(line)
        raise


@click.group(cls=Group)
@common
def snapshots() -> None:
    """List, take, restore and prune copies."""


@snapshots.command("list")
@folder_option
@common
@click.pass_context
def list_snapshots(context: click.Context, folder: Path | None) -> int:
    """List the copies that are kept.

    The newest first. Nothing is changed.
    """
    return answered(context, partial(_listed, folder=folder))


async def _listed(call: Call, folder: Path | None) -> Answer:
    found = await _of_all(call, folder)
    lines = [f"{name}: {each}" for name, copies in found.items() for each in copies]
    lines += [f"{name}: no copy is kept" for name, copies in found.items() if not copies]
    value = {"targets": [{"name": name, "snapshots": c} for name, c in json_of(found).items()]}
    return Answer(value, joined(lines), table=partial(_table, found))


async def _of_all(call: Call, folder: Path | None) -> dict[str, tuple[Snapshot, ...]]:
    return {name: await call.migrator.snapshots(target=name, folder=folder) for name in call.names}


def _table(found: dict[str, tuple[Snapshot, ...]], cell: Callable[[object], Text]) -> Table:
    table = Table("target", "copy", box=None, header_style="bold")
    for name, copies in found.items():
        for each in copies or ("none",):
            table.add_row(cell(name), cell(each))
    return table


@snapshots.command()
@click.option(
    "--how",
    type=click.Choice(get_args(Copying)),
    default="auto",
    help="A copy on the server, or a file of pg_dump; default: what can be made (PostgreSQL).",
)
@disconnect_option
@folder_option
@common
@click.pass_context
def take(context: click.Context, how: Copying, disconnect_others: bool, folder: Path | None) -> int:
    """Copy every target's data, and verify the copy.

    A copy on the server needs a database that nobody is connected to; --how dump with --folder does
    not, and goes on beside the application.
    """

    async def work(call: Call) -> Answer:
        made: list[Any] = []
        lines: list[str] = []
        async with call.shown():
            for name in call.names:
                with _telling(call, lines):
                    taken = await call.migrator.take_snapshot(
                        target=name, how=how, disconnect_others=disconnect_others, folder=folder
                    )
                made.append({"name": name, "snapshot": json_of(taken)})
                lines.append(f"{name}: {taken}")
        return Answer({"targets": made}, joined(lines))

    return answered(context, work)


@snapshots.command()
@click.argument("place")
@click.option(
    "--any-heads", is_flag=True, help="Even a copy at revisions that this code does not know."
)
@disconnect_option
@folder_option
@common
@click.pass_context
def restore(
    context: click.Context,
    place: str,
    any_heads: bool,
    disconnect_others: bool,
    folder: Path | None,
) -> int:
    """Put a copy back, and keep what it replaces.

    PLACE is what the list calls the copy, or newest: the newest snapshot that is whole. Stop the
    application before.
    """

    async def work(call: Call) -> Answer:
        name = call.only_target()
        chosen = await _newest(call, name, folder) if place == "newest" else place
        await call.confirm(
            f"{escaped(chosen)} takes the place of the data of {escaped(name)}; what was written "
            "since it was made is in the copy that is kept of what it replaces, and nowhere else",
            shown=await call.migrator.check(),
        )
        async with call.shown():
            restored = await call.migrator.restore_snapshot(
                chosen,
                target=name,
                any_heads=any_heads,
                disconnect_others=disconnect_others,
                folder=folder,
            )
        return Answer(restored, str(restored))

    return answered(context, work)


async def _newest(call: Call, name: str, folder: Path | None) -> str:
    return newest(await call.migrator.snapshots(target=name, folder=folder), name).place


@snapshots.command()
@click.option("--keep", type=_NUMBER, metavar="N", help="How many of the newest snapshots stay.")
@click.option(
    "--max-age", type=float, callback=_days, metavar="DAYS", help="How old a snapshot may be."
)
@click.option(
    "--keep-replaced", type=_NUMBER, metavar="N", help="How many stay of what restores have kept."
)
@click.option(
    "--keep-purged",
    type=_NUMBER,
    metavar="N",
    help="How many stay of what purges have kept, and of damaged files.",
)
@folder_option
@common
@click.pass_context
def prune(context: click.Context, /, folder: Path | None, **limits: Any) -> int:
    """Delete copies beyond the limits.

    The newest of each kind stays, and so does what an open journal needs. Damaged files that were
    set aside (….corrupt-…) go with --keep-purged.
    """
    given = {name: value for name, value in limits.items() if value is not None}

    async def work(call: Call) -> Answer:
        if not given:
            raise click.UsageError(
                "say how many stay, or how old they may be: --keep, --max-age, --keep-replaced or "
                "--keep-purged"
            )
        kept = {name: copies for name, copies in (await _of_all(call, folder)).items() if copies}
        if kept:
            said = ", ".join(
                f"--{name.replace('_', '-')} {value:g}" for name, value in given.items()
            )
            shown = joined(f"{name}: {each}" for name in kept for each in kept[name])
            await call.confirm(f"Of these, what is beyond {said} is deleted", *kept, shown=shown)
        gone: list[Any] = []
        lines: list[str] = []
        for name in call.names:
            with _telling(call, lines):
                places = await call.migrator.prune_snapshots(target=name, folder=folder, **given)
            gone.append({"name": name, "deleted": list(places)})
            lines += [f"{name}: deleted {each}" for each in places]
        return Answer({"targets": gone}, joined(lines) or "nothing was to be deleted")

    return answered(context, work)
