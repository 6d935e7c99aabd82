"""Runs trials with real processes, and judges each by a ledger outside the database."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.life import Dump, LivingDatabase, LivingFile, written
from safety.causes import CAUSES
from safety.trials import HEAD, WANTED, Setting, Trial
from support import alembic_projects
from support.postgres_server import Server
from support.starters import Ended, Processes, Start, started

SECONDS = {"lock_timeout": 30.0, "connect_timeout": 10.0, "retry_timeout": 1.0}
KILLED = Setting(
    (("backup-restore", {"snapshot": "always", "disconnect_others": True}),), allow_partial=False
)
OVERWRITTEN = "killed, then overwritten by hand"
BACKUPS = ("killed, then restored by hand", OVERWRITTEN)
DONE = ("current", "migrated", "recovered")


@dataclass
class Found:
    """What a trial came to: what was wrong, and what each process told."""

    wrong: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


class Laboratory:
    """Where trials are laid: a folder, and one database of the server used again and again."""

    def __init__(self, root: Path, server: Server) -> None:
        self.root = root
        self._database = LivingDatabase(server, f"am_{uuid.uuid4().hex[:12]}")
        self._templates: dict[str, Path] = {}

    def close(self) -> None:
        self._database.close()

    def run(self, trial: Trial) -> Found:
        folder = self.root / uuid.uuid4().hex[:12]
        folder.mkdir()
        place: LivingFile | LivingDatabase = self._database
        if isinstance(place, LivingDatabase) and trial.database == "postgresql":
            place.lay(absent=False)
        else:
            place = LivingFile(folder, "wal" if len(trial.cause) % 2 else "delete", absent=False)
        try:
            return _Run(trial, place, self._project(trial, folder, place.url)).judged()
        finally:
            shutil.rmtree(folder)

    def _project(self, trial: Trial, folder: Path, url: str) -> Path:
        """A project without revisions, copied from one made before."""
        kind = trial.environment
        if kind not in self._templates:
            template = self.root / f"template-{kind}"
            alembic_projects.project(template, kind, url, revisions=lambda _: None)
            self._templates[kind] = template
        root = folder / "project"
        shutil.copytree(self._templates[kind], root)
        ini = root / "alembic.ini"
        ini.write_text(ini.read_text("utf-8").replace(str(self._templates[kind]), str(root)))
        return root


class _Run:
    """One trial; `ledger` has the rows that the application was told are committed."""

    def __init__(self, trial: Trial, place: LivingFile | LivingDatabase, root: Path) -> None:
        self.trial, self.place, self.root = trial, place, root
        self.versions = root / "migrations" / "versions"
        self.wanted = WANTED
        self.ledger: set[str] = set()
        self.serial = 0

    def judged(self) -> Found:
        self._past()
        before = self.place.dump()
        starts = [self._start(each) for each in self.trial.settings]
        with started(starts, self.root) as processes:
            ended = processes.ended(limit_s=120)
        found = Found(
            outcomes=[each.outcome for each in ended],
            kinds=[kind for each in ended for kind in each.kinds],
            text=[each.text for each in ended],
        )
        found.wrong += self._wrong(before, self.place.dump(), ended)
        return found

    # what has happened before

    def _past(self) -> None:
        trial, past = self.trial, self.trial.past
        trial.write(self.versions, mended=True)
        self._plainly(HEAD)
        self._serve(3)
        if past == "a start failed":
            trial.write(self.versions)
            self._ended(Start(self.place.url, self.root / "alembic.ini", options=SECONDS))
            if self.place.dump().heads == {HEAD}:
                self._serve(2)
        elif past.startswith(("killed", "copied")):
            self._killed(past)
        at_head = "finished" in past
        trial.write(self.versions, mended=at_head)
        if "further" in past:
            self._further()

    def _killed(self, past: str) -> None:
        trial, kept = self.trial, self.root / "kept.db"
        if isinstance(self.place, LivingFile) and past in BACKUPS:
            self.place.copy_to(kept)
            self._serve(1)
        trial.write(self.versions, killed=True)
        assert self._ended(self._start(KILLED)).outcome == "killed"
        if past.startswith("copied"):
            self._copied_back()
        elif "finished" in past:
            trial.write(self.versions, mended=True)
            if "further" in past:
                self._further()
            self._plainly("head")
            self._serve(2)
        elif isinstance(self.place, LivingFile) and past in BACKUPS:
            for each in self.place.path.parent.glob(f"{self.place.path.name}-*"):
                each.unlink()
            # the same file, or another one: only the latter can be seen at the very same revision
            (shutil.copyfile if past == OVERWRITTEN else shutil.move)(kept, self.place.path)
            self.ledger &= set(self.place.dump().tokens())
            self._serve(2)
        elif "changed" in past and self.place.dump().heads == {HEAD}:
            self._serve(2)

    def _copied_back(self) -> None:
        """A volume is put back of which only the database was newer."""
        assert isinstance(self.place, LivingFile)
        beside = self.place.path.parent
        kept = self.root / "beside"
        shutil.copytree(beside, kept)
        self.trial.write(self.versions, mended=True)
        assert self._ended(self._start(KILLED)).outcome == "migrated"
        self._serve(2)
        for each in kept.iterdir():
            if not each.name.startswith(self.place.path.name) or "automigrator" in each.name:
                shutil.copyfile(each, beside / each.name)

    def _further(self) -> None:
        self.wanted = "r5"
        code = 'op.create_table("t_r5", sa.Column("id", sa.Integer))'
        alembic_projects.revision(self.versions, "r5", "r4", upgrade=code)

    def _plainly(self, revision: str) -> None:
        later = [each for each in self.versions.glob("r*.py") if each.name[:2] > revision]
        aside = [(each, each.with_suffix(".later")) for each in later if revision != "head"]
        for each, other in aside:
            each.rename(other)
        url = self.place.url
        if self.trial.environment not in alembic_projects.ASYNC:
            url = alembic_projects.with_sync_driver(url)
        ended = self._ended(Start(url, self.root / "alembic.ini", plain=True))
        assert not ended.error, ended
        for each, other in aside:
            other.rename(each)

    def _serve(self, writes: int) -> None:
        """The application writes rows, and is told that they are there."""
        for _ in range(writes):
            self.serial += 1
            assert self.place.write(self.serial)
            self.ledger |= set(written(self.serial))

    # the start

    def _start(self, setting: Setting) -> Start:
        return Start(
            self.place.url,
            self.root / "alembic.ini",
            options=SECONDS,
            recovery=setting.recovery,
            more={"allow_partial": setting.allow_partial, "max_failed_starts": 0},
        )

    def _ended(self, start: Start) -> Ended:
        processes = Processes([start], self.root)
        try:
            return processes.ended(limit_s=60)[0]
        finally:
            processes.stop()

    # the judgement

    def _wrong(self, before: Dump, after: Dump, ended: Sequence[Ended]) -> Iterator[str]:
        reports = [each.report for each in ended]
        for each in ended:
            if each.report is None:
                yield f"it ended as {each.outcome}: {each.text[:300]}"
        if held := self.place.held():
            yield held
        opened = self.place.opened()
        if opened and any(each and each["outcome"] != "failed" for each in reports):
            yield "an application may start, and a journal is open"
        yield from self._losses(after, reports)
        for report, setting in zip(reports, self.trial.settings, strict=True):
            if report is not None:
                yield from self._untrue(before, after, report, setting)

    def _losses(self, after: Dump, reports: Sequence[Any]) -> Iterator[str]:
        whose = CAUSES[self.trial.cause].whose
        asked = any(each.purges(whose) for each in self.trial.settings)
        asked = asked and "finished" not in self.trial.past
        missing = self.ledger - set(after.tokens())
        aside = [name for kind, name in self.place.beside() if kind == "aside"]
        replaced = [name for name in aside if "purged" in name]
        if replaced and not asked:
            yield f"purged unasked: {replaced}"
        if not missing:
            return
        for name in aside:
            missing -= set(self.place.dump(name).tokens())
        if missing:
            yield f"{sorted(missing)} are nowhere"
        elif not replaced:
            if not self._told(aside, reports):
                yield "rows of the application are only in a copy, and nobody has asked for that"
        elif not any(each and each["outcome"] == "recovered" for each in reports):
            yield "rows are only in a copy, and no report says recovered"

    def _told(self, aside: Sequence[str], reports: Sequence[Any]) -> bool:
        """Whether a backup over the same file was taken for the migration's half, and that told."""
        notes = " ".join(note for each in reports if each for note in each["notes"])
        return self.trial.past == OVERWRITTEN and any(name in notes for name in aside)

    def _untrue(self, before: Dump, after: Dump, report: Any, setting: Setting) -> Iterator[str]:
        outcome, heads = report["outcome"], sorted(after.heads)
        last = report["failures"][-1] if report["failures"] else None
        alone = len(self.trial.settings) == 1
        if sorted(report["after"]) != heads and (alone or outcome in DONE):
            yield f"{outcome}: it says {report['after']}, and the database is at {heads}"
        there = heads == [self.wanted]
        if outcome in DONE and not there:
            yield f"{outcome}, and the database is at {heads}"
        if outcome in DONE and there:
            lacking = {"notes", "t_r4"} - after.user_tables
            if lacking or "c_r3" not in after.columns["notes"]:
                yield f"{outcome}, and there is no {lacking or 'c_r3'}"
        half = "a_r3" in after.user_tables and not {"r3", "r4", "r5"} & set(heads)
        if outcome == "degraded":
            if not setting.continues:
                yield "degraded, and its own configuration forbids that"
            if half and alone and not setting.allow_partial:
                yield "degraded on half a revision, and allow_partial was not given"
        if outcome in ("failed", "degraded") and last is not None:
            if half and alone and last["state"] == "clean" and "a_r3" not in before.user_tables:
                yield f"{outcome}: clean, and half of r3 is there"
            known = alone and self.trial.past in ("nothing", "a start failed")
            same = before.without(set()) == after.without(set())
            if known and last["state"] == "clean" and not same:
                yield f"{outcome}: clean, and the database is not as it was"
