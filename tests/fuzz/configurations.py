"""How the application configures one run, and how a run of it may end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from fuzz.histories import ALWAYS, Failing, History
from hypothesis import strategies as st

Then = Literal["pass", "retry", "continue", "abort"]
Spec = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Configuration:
    """`recovery` is a permutation of a subset of the installed strategies."""

    recovery: tuple[Spec, ...]
    allow_partial: bool
    max_failed_starts: int
    retry_timeout: float

    def options(self, name: str) -> dict[str, Any] | None:
        return next((options for each, options in self.recovery if each == name), None)

    @property
    def then(self) -> Then | None:
        options = self.options("backup-restore")
        return options["then"] if options is not None else None

    @property
    def purges(self) -> bool:
        return self.options("purge") is not None

    @property
    def disconnects(self) -> bool:
        """Whether nothing is refused because others are connected."""
        return all(options.get("disconnect_others", True) for _, options in self.recovery)

    def __str__(self) -> str:
        named = [f"{name}{options or ''}" for name, options in self.recovery]
        more = " partial" if self.allow_partial else ""
        return f"[{', '.join(named)}]{more} limit={self.max_failed_starts}"


def outcomes(
    history: History, heads: Collection[str], configuration: Configuration, has_rows: bool
) -> set[str]:
    """What may become of an undisturbed run that finds the database at these heads."""
    if not set(heads) <= history.ids:
        return {"failed"}  # no strategy here was told to start on a newer database
    pending = [history[id] for id in history.pending(heads)]
    if not pending:
        return {"current"}
    failing = [each.failing for each in pending if each.failing is not None]
    if not any(_fails(each, has_rows) for each in failing):
        return {"migrated"}
    names = {name for name, _ in configuration.recovery}
    if not names:
        return {"failed"} | ({"migrated"} if _maybe(failing, has_rows) else set())
    found = {"failed", "degraded"}
    if not (names & {"log-and-continue"} or configuration.then == "continue"):
        found.discard("degraded")
    if configuration.purges or configuration.then == "retry":
        found.add("recovered")
    if _maybe(failing, has_rows):
        found.add("migrated")
    return found


def _fails(failing: Failing, has_rows: bool) -> bool:
    return has_rows if failing.rows else failing.runs > 0


def _maybe(failing: Collection[Failing], has_rows: bool) -> bool:
    """Whether it may be over already: it fails so many times, and has run before."""
    return not any(
        _fails(each, has_rows) and (each.rows or each.runs == ALWAYS) for each in failing
    )


_backup = st.fixed_dictionaries(
    {
        "snapshot": st.sampled_from(["auto", "always"]),
        "then": st.sampled_from(["pass", "retry", "retry", "continue", "abort"]),
        "disconnect_others": st.sampled_from([True, True, False]),
        "keep": st.sampled_from([None, 1]),
    }
)
_purge = st.fixed_dictionaries({"disconnect_others": st.sampled_from([True, True, False])})
_specs = st.tuples(
    st.tuples(st.just("backup-restore"), _backup),
    st.tuples(st.just("purge"), _purge),
    st.tuples(st.just("log-and-continue"), st.just({})),
)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    specs = draw(st.permutations(draw(_specs)))
    return Configuration(
        tuple(specs[: draw(st.integers(0, 3))]),
        draw(st.booleans()),
        draw(st.sampled_from([0, 0, 0, 2])),
        draw(st.sampled_from([5.0, 5.0, 0.0])),
    )
