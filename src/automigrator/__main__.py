"""The command `automigrator`, and `python -m automigrator`: it begins with no more than the core.

So it can say what is missing.
"""

from __future__ import annotations

import sys

NEEDED = frozenset({"click", "rich"})
"""What the extra `cli` brings."""


def main() -> int:
    """Do what the process's arguments say; returns the exit code, see `exits.Exit`."""
    try:
        from automigrator.cli.commands import automigrator
        from automigrator.cli.invocation import invoked
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in NEEDED:
            raise
        print(
            f"the command line needs {missing}, which is not installed; nothing was done: "
            'pip install "automigrator[cli]"',
            file=sys.stderr,
        )
        return 2
    return invoked(automigrator, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
