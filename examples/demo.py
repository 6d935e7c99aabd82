"""Start the notes application again and again, as deployments would, and show each report.

Everything happens in a temporary folder; nothing is left behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

BROKEN = '''"""loses the notes, commits that, and fails"""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DELETE FROM notes")
    op.execute("INSERT INTO a_table_that_is_not_there SELECT * FROM notes")
'''
FIXED = '''"""an index for looking notes up"""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("ix_notes_written_at", "notes", ["written_at"])
'''


def start(application: Path, title: str, note: str) -> None:
    print(f"\n=== {title}", flush=True)
    subprocess.run(
        [sys.executable, str(application / "app.py"), str(application / "notes.db"), note],
        env={**os.environ, "RUN_MIGRATIONS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        application = Path(shutil.copytree(HERE / "notes", Path(folder) / "notes"))
        revision = application / "migrations" / "versions" / "0004_index.py"
        start(application, "First start: no database yet", "milk")
        start(application, "Next start: nothing to do", "bread")
        revision.write_text(BROKEN)
        start(
            application,
            "A broken revision commits half of its work and fails. The snapshot is restored, "
            "and the application starts on the old schema",
            "eggs",
        )
        revision.write_text(FIXED)
        start(application, "The repaired deployment", "salt")


if __name__ == "__main__":
    main()
