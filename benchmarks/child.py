"""A fresh process that measures something and prints it as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def measured(*arguments: str) -> dict[str, float]:
    """What `python <arguments>` printed; it may import from this folder, and uses .pyc files."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), env.get("PYTHONPATH", "")])
    shown = subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True, env=env
    ).stdout
    return dict(json.loads(shown))
