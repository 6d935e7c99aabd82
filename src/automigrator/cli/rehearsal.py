"""The command `rehearse`: a copy is migrated and measured, and what was found is an exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from automigrator.cli.findings import at_least, rendered
from automigrator.cli.invocation import Call, answered
from automigrator.cli.options import Options, common
from automigrator.cli.output import Answer
from automigrator.cli.source import copy_of
from automigrator.exits import Exit
from automigrator.measurement import LEVELS
from automigrator.printable import escaped
from automigrator.rehearsal import Rehearsal
from automigrator.support import urls

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--on", "copy", metavar="URL", help="The copy, without a password.")
@click.option("--on-file", "file", type=_PATH, metavar="FILE", help="A file of mode 0600 with it.")
@click.option("--apart", is_flag=True, help="Targets that cannot be reached are other databases.")
@click.option("--max-block", type=float, metavar="SECONDS", help="That others may wait for a lock.")
@click.option("--max-time", type=float, metavar="SECONDS", help="That the revisions may take.")
@click.option("--max-growth", type=int, metavar="BYTES", help="That the database may grow by.")
@click.option(
    "--fail-on",
    type=click.Choice(LEVELS),
    default="error",
    help="The mildest finding that ends with 7; default: error, a limit that is exceeded.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "json", "markdown", "sarif")),
    default="text",
    help="How the findings are printed.",
)
@common
@click.pass_context
def rehearse(
    context: click.Context,
    /,
    copy: str | None,
    file: Path | None,
    apart: bool,
    fail_on: str,
    form: str,
    **limits: Any,
) -> int:
    """Apply what is pending to a copy, and say what it would do to the application.

    The copy, a restored or masked database that you made, is migrated for good; it stays yours to
    drop. Its URL may be in AUTOMIGRATOR_COPY_URL. No target's database is accepted. 0 where nothing
    is found, 5 where a revision fails, 7 where a limit is exceeded.
    """
    options = context.ensure_object(Options)
    options.json = options.json or form == "json"

    async def work(call: Call) -> Answer:
        url = copy_of(copy, file, os.environ)
        call.output.secrets += tuple(urls.secrets_of(url))
        given = {name: value for name, value in limits.items() if value is not None}
        name = call.only_target()
        await call.confirm(
            f"What is pending for {escaped(name)} is applied to {urls.rendered(url)}, which must "
            "be a copy of its database, and stays migrated"
        )
        found = await call.migrator.rehearse_on(
            url, target=name, limits=Rehearsal(**given) if given else None, apart=apart
        )
        code = Exit.OK
        if found.failure is not None:
            code = Exit.FAILED
        elif any(at_least(found, fail_on, LEVELS)):
            code = Exit.REFUSED
        text = str(found) if form in ("text", "json") else rendered(found, form, Path.cwd())
        return Answer(found, text, code)

    return answered(context, work)
