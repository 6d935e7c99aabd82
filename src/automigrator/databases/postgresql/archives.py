"""Which entries of a dump pg_restore is to put back: told by a list in a file beside it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from automigrator.databases.postgresql import dump_files
from automigrator.databases.postgresql.children import run
from automigrator.databases.postgresql.clients import Clients
from automigrator.threads import in_thread, to_the_end

Choice = AbstractAsyncContextManager[Sequence[str]]
"""Within, pg_restore's arguments for a part of a dump, which end with the dump itself."""

_ENTRY = r"\d+; \d+ \d+ "


@dataclass(frozen=True, slots=True)
class Archive:
    """The dump at `path`; `env` is what pg_restore is run with."""

    path: str
    clients: Clients
    env: dict[str, str]

    def schemas(self, names: Collection[str]) -> Choice:
        """These schemas alone, empty."""
        wanted = re.compile(rf"{_ENTRY}SCHEMA - {_one_of(names)} ")
        return self._chosen(lambda line: wanted.match(line) is not None)

    def all_but(self, staying: Collection[str], made: Collection[str]) -> Choice:
        """All but extensions, schemas that were not dropped, and those that were made before."""
        left_out = re.compile(
            rf"{_ENTRY}(?:(?:ACL|COMMENT|SECURITY LABEL) - SCHEMA {_one_of(staying)} "
            rf"|SCHEMA - {_one_of([*staying, *made])} |EXTENSION - |COMMENT - EXTENSION )"
        )
        return self._chosen(lambda line: left_out.match(line) is None)

    @asynccontextmanager
    async def _chosen(self, wanted: Callable[[str], bool]) -> AsyncIterator[Sequence[str]]:
        # of a name that is cleared away after a kill
        listing = dump_files.partial(Path(f"{self.path}.list"))

        def cut() -> None:
            lines = listing.read_bytes().decode(errors="surrogateescape").splitlines(keepends=True)
            kept = "".join(line for line in lines if wanted(line))
            listing.write_bytes(kept.encode(errors="surrogateescape"))

        try:
            await in_thread(lambda: dump_files.create_private(listing))
            program = self.clients.program("pg_restore")
            await run(program, "-l", "-f", str(listing), self.path, env=self.env)
            await in_thread(cut)
            yield ("-L", str(listing), self.path)
        finally:
            await to_the_end(in_thread(lambda: listing.unlink(missing_ok=True)))


def _one_of(names: Collection[str]) -> str:
    return f"(?:{'|'.join(re.escape(name) for name in names) or '(?!)'})"  # or nothing
