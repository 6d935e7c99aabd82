"""The process of the application is as it was when env.py has run, wherever it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SHUT_OUT = """
import os, sys
from automigrator.migrations.runs.process import guarded
os.chdir(sys.argv[1])
os.chmod(".", 0)
if os.geteuid() == 0:
    os.setuid(65534)
with guarded():
    print("run in", os.getcwd())
"""


def test_a_process_may_be_in_a_folder_that_it_may_not_enter(tmp_path: Path) -> None:
    """A service that was started there has given up its rights since."""
    folder = tmp_path / "shut"
    folder.mkdir()
    command = [sys.executable, "-c", SHUT_OUT, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    folder.chmod(0o700)
    assert (ran.returncode, ran.stdout) == (0, f"run in {folder}\n"), ran.stderr
