"""The commands about snapshots: list, take, restore, prune."""

from __future__ import annotations

from functools import partial

import click
from rich.table import Table
from rich.text import Text

from automigrator.backends.contract.snapshots import Snapshot
from automigrator.cli.invocation import Call, answered
from automigrator.cli.options import Group, common
from automigrator.cli.output import Answer, json_of
from automigrator.printable import escaped, joined

KINDS = ("copy", "template", "dump")
"""Kinds of snapshots; what restores and purges have kept is listed beside them, and stays."""


@click.group(cls=Group)
@common
def snapshots() -> None:
    """List, take, restore and prune copies."""


@snapshots.command("list")
@common
@click.pass_context
def list_snapshots(context: click.Context) -> int:
    """List the copies that are kept.

    The newest first. Nothing is changed.
    """
    return answered(context, _listed)


async def _listed(call: Call) -> Answer:
    found = await _of_all(call)
    lines = [f"{name}: {each}" for name, copies in found.items() for each in copies]
    lines += [f"{name}: no copy is kept" for name, copies in found.items() if not copies]
    value = {"targets": [{"name": name, "snapshots": c} for name, c in json_of(found).items()]}
    return Answer(value, joined(lines), table=partial(_table, found))


async def _of_all(call: Call) -> dict[str, tuple[Snapshot, ...]]:
    return {name: await call.migrator.snapshots(target=name) for name in call.names}


def _table(found: dict[str, tuple[Snapshot, ...]]) -> Table:
    table = Table("target", "copy", box=None, header_style="bold")
    for name, copies in found.items():
        for each in copies or ("none",):
            table.add_row(Text(escaped(name)), Text(escaped(each)))
    return table


@snapshots.command()
@common
@click.pass_context
def take(context: click.Context) -> int:
    """Copy every target's data, and verify the copy."""

    async def work(call: Call) -> Answer:
        async with call.shown():
            taken = {name: await call.migrator.take_snapshot(target=name) for name in call.names}
        lines = [f"{name}: {each}" for name, each in taken.items()]
        made = [{"name": name, "snapshot": each} for name, each in json_of(taken).items()]
        return Answer({"targets": made}, joined(lines))

    return answered(context, work)


@snapshots.command()
@click.argument("place")
@click.option(
    "--disconnect-others", is_flag=True, help="End the sessions that are in the way (PostgreSQL)."
)
@common
@click.pass_context
def restore(context: click.Context, place: str, disconnect_others: bool) -> int:
    """Put a copy back, and keep what it replaces.

    PLACE is what the list calls the copy. Stop the application before.
    """

    async def work(call: Call) -> Answer:
        name = call.only_target()
        call.confirm(
            f"{escaped(place)} takes the place of the data of {escaped(name)}; what was written "
            "since it was made is in the copy that is kept of what it replaces, and nowhere else",
            shown=await call.migrator.check(),
        )
        async with call.shown():
            restored = await call.migrator.restore_snapshot(
                place, target=name, disconnect_others=disconnect_others
            )
        return Answer(restored, str(restored))

    return answered(context, work)


@snapshots.command()
@click.option(
    "--keep", type=click.IntRange(min=1), required=True, metavar="N", help="How many stay."
)
@common
@click.pass_context
def prune(context: click.Context, keep: int) -> int:
    """Delete the oldest copies.

    The newest N snapshots of every target stay.
    """

    async def work(call: Call) -> Answer:
        doomed = {
            name: [each for each in copies if each.kind in KINDS][keep:]
            for name, copies in (await _of_all(call)).items()
        }
        doomed = {name: copies for name, copies in doomed.items() if copies}
        if doomed:
            shown = joined(f"{name}: {each}" for name in doomed for each in doomed[name])
            call.confirm("These snapshots are deleted", *doomed, shown=shown)
        gone = {name: await call.migrator.prune_snapshots(keep, target=name) for name in call.names}
        lines = [f"{name}: deleted {each}" for name, places in gone.items() for each in places]
        value = {"targets": [{"name": name, "deleted": p} for name, p in json_of(gone).items()]}
        return Answer(value, joined(lines) or "nothing was to be deleted")

    return answered(context, work)
