"""Draws `docs/images/run.svg`: how a run goes, from the steps that are listed here.

    python docs/diagram.py

Needs matplotlib, which `nox -s docs -- charts` installs.
"""

from __future__ import annotations

from pathlib import Path

STEPS = (
    ("Gate", "mode=, RUN_MIGRATIONS", "run-started"),
    ("Look", "the files' heads, the database's: one SELECT", "target-started"),
    ("Reach", "wait for the server, create the database", "reached"),
    ("Lock", "one process migrates, the others wait", "locked"),
    ("Repair", "finish or undo what a killed run began", "repaired"),
    ("Look again", "env.py says how the database stands", "planned"),
    ("Rehearse", "where it is asked for: on a copy", "rehearsed"),
    ("Prepare", "before_migrate: a snapshot, say", "hook-finished"),
    ("Apply", "env.py runs; the lock is confirmed before each commit", "revision-done"),
    ("Read back", "the heads decide, whatever env.py said", "attempt-finished"),
    ("Follow up", "after_migrate, then the lock is released", "hook-finished"),
    ("Report", "after_run; the application starts", "target-finished"),
)
"""What happens, in one line, and the event that tells that it has."""

ASIDE = (
    (0, "closed: skipped", "#8a8f98"),
    (1, "nothing to do: current", "#1a7f64"),
    (3, "a leader has done it: its outcome", "#1a7f64"),
)
"""Where a run may leave the line."""

FAILED = ("A failure", "in-house hooks, then strategies are asked")
DECISIONS = (
    ("RETRY", "from Look again, at most 3 attempts", "#1a7f64"),
    ("CONTINUE", "degraded: the application starts", "#b7791f"),
    ("ABORT, or nobody decides", "failed: MigrationError", "#b42318"),
)


def draw(path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "run", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot
    from matplotlib.patches import FancyBboxPatch

    figure, axes = pyplot.subplots(figsize=(7.6, 8.2), layout="constrained")

    def box(x: float, y: float, width: float, head: str, text: str, color: str) -> None:
        shape = FancyBboxPatch(
            (x, y - 0.32), width, 0.64, boxstyle="round,pad=0.02", fc="white", ec=color, lw=1.3
        )
        axes.add_patch(shape)
        axes.text(x + 0.15, y + 0.12, head, weight="bold", va="center")
        axes.text(x + 0.15, y - 0.15, text, va="center", color="#444c56")

    def arrow(start: tuple[float, float], end: tuple[float, float], color: str) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": color, "lw": 1.3})

    last = len(STEPS) - 1
    for number, (head, text, _) in enumerate(STEPS):
        box(0, last - number, 5.2, head, text, "#3b5b8c")
        if number < last:
            arrow((2.6, last - number - 0.34), (2.6, last - number - 0.66), "#3b5b8c")
    for number, text, color in ASIDE:
        arrow((5.24, last - number), (5.8, last - number), color)
        axes.text(5.9, last - number, text, va="center", color=color)
    box(5.9, 5, 4.4, *FAILED, "#b42318")
    for number in (5, 7, 8, 9):
        arrow((5.24, last - number), (5.9, 5), "#b42318")
    for place, (head, text, color) in zip((3.8, 2.8, 1.8), DECISIONS, strict=True):
        box(6.3, place, 4.0, head, text, color)
    arrow((7.0, 4.66), (7.0, 4.16), "#b42318")
    axes.set_xlim(-0.1, 10.5)
    axes.set_ylim(-0.6, last + 0.6)
    axes.axis("off")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_name("images") / "run.svg")
