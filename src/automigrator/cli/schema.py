"""The commands about schema files: dump, check."""

from __future__ import annotations

from pathlib import Path

import click

from automigrator.cli.invocation import Call, answered
from automigrator.cli.options import Group, common
from automigrator.cli.output import Answer
from automigrator.exits import Exit
from automigrator.printable import escaped, joined

_FILE = click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The schema file; default: that of Target(bootstrap=).",
)


@click.group(cls=Group)
@common
def schema() -> None:
    """Make and check the file that new databases begin with."""


@schema.command()
@_FILE
@common
@click.pass_context
def dump(context: click.Context, file: Path | None) -> int:
    """Write the schema file.

    The revisions run on new databases beside the target's, which stays as it is.
    """

    async def work(call: Call) -> Answer:
        path = await call.migrator.dump_schema(file, target=call.only_target())
        return Answer({"file": str(path)}, f"written: {escaped(str(path))}")

    return answered(context, work)


@schema.command()
@_FILE
@common
@click.pass_context
def check(context: click.Context, file: Path | None) -> int:
    """Compare the schema file with the revisions.

    0 where both make the same database, 7 where they do not. The target's stays as it is.
    """

    async def work(call: Call) -> Answer:
        found = await call.migrator.check_schema(file, target=call.only_target())
        lines = [f"differs: {each}" for each in found] or ["equal to what the revisions make"]
        return Answer(
            {"differences": list(found)}, joined(lines), Exit.REFUSED if found else Exit.OK
        )

    return answered(context, work)
