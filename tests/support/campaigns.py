"""A campaign's results, one JSON line each: a campaign that is ended goes on where it stopped."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

W = TypeVar("W")


class Results:
    """The verdicts so far of this seed and this commit, by the number of what was drawn.

    `variable` in the environment names the file; without it nothing is kept.
    """

    def __init__(self, variable: str, seed: str) -> None:
        self._path = Path(os.environ.get(variable, os.devnull))
        self._seed, self._commit = seed, commit()
        self.verdicts: dict[int, str] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        """All that was noted, by the number."""
        if self._path.is_file():
            for line in self._path.read_text().splitlines():
                row = json.loads(line)
                if (row["seed"], row["commit"]) == (seed, self._commit):
                    self._keep(row)

    def left(self, count: int) -> list[int]:
        """The numbers below `count` that have no verdict yet."""
        return [number for number in range(count) if number not in self.verdicts]

    def note(self, number: int, verdict: str, **what: Any) -> None:
        """Append a result; safe to call from several threads."""
        row = {"commit": self._commit, "seed": self._seed, "number": number, "verdict": verdict}
        self._keep({**row, **what})
        with self._path.open("a") as file:
            file.write(json.dumps(self.rows[number], default=str) + "\n")

    def _keep(self, row: dict[str, Any]) -> None:
        self.verdicts[row["number"]] = row["verdict"]
        self.rows[row["number"]] = row


def spread(
    results: Results, count: int, workers: Sequence[W], one: Callable[[W, int], object]
) -> None:
    """Have the workers do what is left of `count`, each in a thread of its own."""
    numbers = results.left(count)

    def part(first: int) -> None:
        for number in numbers[first :: len(workers)]:
            one(workers[first], number)

    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(part, range(len(workers))))


def commit() -> str:
    """Of the code that runs, for people."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "no repository"
