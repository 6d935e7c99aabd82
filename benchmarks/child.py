"""A fresh process that measures something and prints it as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def measured(*arguments: str) -> dict[str, float]:
    """What `python <arguments>` printed; it may import from this folder, and uses .pyc files."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), env.get("PYTHONPATH", "")])
    shown = subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True, env=env
    ).stdout
    return dict(json.loads(shown))


def in_turn(
    run: Callable[[str], dict[str, float]], theirs: str, rounds: int
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """What `run("ours")` and `run(theirs)` cost, one after the other, once .pyc files are there."""
    for side in (theirs, "ours"):
        run(side)
    costs = [(run("ours"), run(theirs)) for _ in range(rounds)]
    return [ours for ours, _ in costs], [other for _, other in costs]
