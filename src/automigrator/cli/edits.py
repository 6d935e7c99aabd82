"""The command that takes edited revisions as they are."""

from __future__ import annotations

import click

from automigrator.cli.invocation import Call, answered
from automigrator.cli.options import common
from automigrator.cli.output import Answer
from automigrator.printable import escaped


@click.command()
@common
@click.pass_context
def accept(context: click.Context) -> int:
    """Take edited revisions as they are.

    The files of applied revisions count as unedited from now on. No revision is run.
    """

    async def work(call: Call) -> Answer:
        listed = ", ".join(map(escaped, call.names))
        await call.confirm(f"The applied revisions of {listed} are taken as their files are now")
        accepted: dict[str, tuple[str, ...]] = {}
        for name in call.names:
            accepted |= await call.migrator.accept(target=name)
        lines = [
            f"{escaped(name)}: accepted {', '.join(map(escaped, edited)) or 'no edit'}"
            for name, edited in accepted.items()
        ]
        return Answer({"accepted": accepted}, "\n".join(lines))

    return answered(context, work)
