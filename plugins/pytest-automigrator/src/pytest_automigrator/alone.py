"""Imports each revision file in a process of its own; a script of its own.

    alone.py <files, a line each, on stdin>

Prints a line of JSON for each file that cannot be imported: its path, and why. `sys.path` is what
PYTHONPATH says; Alembic and SQLAlchemy are imported once, and every process is a fork.
"""

import json
import os
import runpy
import sys
import traceback


def main() -> None:
    """Fork for each file, one after the other."""
    import sqlalchemy  # noqa: F401

    sys.path[:] = [each for each in sys.path if each != os.path.dirname(os.path.abspath(__file__))]
    for path in sys.stdin.read().splitlines():
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            said = ""
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                runpy.run_path(path, run_name="revision")
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the file's
                said = traceback.format_exception_only(error)[-1].strip()
            os.write(writer, said.encode("utf-8", "replace")[:2000])
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as answer:
            said = answer.read().decode("utf-8", "replace")
        os.waitpid(pid, 0)
        if said:
            print(json.dumps([path, said]), flush=True)


if __name__ == "__main__":
    main()
