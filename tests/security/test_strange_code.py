"""A guest's checks would run as the role that puts rows back, so rows beside them are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from automigrator_backup_restore import BackupRestore
from support.notes_application import BROKEN, COMMITS, GOOD, ROWS, Application
from support.postgres_server import Server

from automigrator import MigrationError, Migrator, Rehearsal

WEAPON = """
    create function public.weapon(int) returns bool {volatile} language plpgsql as $$ begin
        if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
            execute 'alter role {guest} superuser';
        end if;
        return true;
    end $$
"""

BAIT = {
    "check": "create table public.bait (a int check (public.weapon(a)))",
    "domain": """
        create domain public.trap as int check (public.weapon(value));
        create table public.bait (a public.trap)""",
    "generated": "create table public.bait (a int, b bool generated always as (weapon(a)) stored)",
    "partition": """
        create table public.bait (a int) partition by list (public.weapon(a));
        create table public.bait_of_true partition of public.bait for values in (true)""",
}


@pytest.fixture
async def notes(tmp_path: Path, postgres_url: str) -> Application:
    return Application(tmp_path, postgres_url)


@pytest.fixture
def guest(notes: Application, roles: Any) -> str:
    """A role that may create something in schema public, of a database of a superuser's."""
    made: str = roles.make()
    notes.execute(f"grant create on schema public to {made}")
    return made


@pytest.mark.long("domain", "generated", "partition")
@pytest.mark.parametrize("how", BAIT)
async def test_a_table_of_a_guest_whose_rows_would_run_his_code_is_not_dumped(
    notes: Application, guest: str, roles: Any, postgres_server: Server, tmp_path: Path, how: str
) -> None:
    await baited(notes, guest, roles, how)
    notes.deploy(f"{COMMITS}\n{BROKEN}")
    with pytest.raises(MigrationError, match=f"public.(bait|trap) of role '{guest}' may run code"):
        await notes.start(BackupRestore(copy="dump", folder=tmp_path / "dumps"))
    assert not is_superuser(postgres_server, guest)
    assert notes.notes() == ROWS


async def test_nor_is_it_copied_for_a_rehearsal(
    notes: Application, guest: str, roles: Any, postgres_server: Server
) -> None:
    await baited(notes, guest, roles, "check")
    notes.deploy(GOOD)
    rehearsal = Rehearsal(copy="dump")
    with pytest.raises(MigrationError, match=f"public.bait of role '{guest}' may run code"):
        await Migrator(notes.target(), mode="migrate", rehearse=rehearsal).run()
    assert not is_superuser(postgres_server, guest)


@pytest.mark.long
async def test_a_guests_table_that_runs_nothing_is_dumped(
    notes: Application, guest: str, roles: Any, tmp_path: Path
) -> None:
    database = notes.url.rpartition("/")[2]
    await roles.does(guest, database, "create table public.plain (a int default 1)")
    notes.deploy(GOOD)
    recovery = BackupRestore(snapshot="always", copy="dump", folder=tmp_path / "dumps")
    assert (await notes.start(recovery)).outcome == "migrated"


async def baited(notes: Application, guest: str, roles: Any, how: str) -> None:
    weapon = WEAPON.format(guest=guest, volatile="volatile" if how == "check" else "immutable")
    rows = "insert into public.bait values (1)"
    await roles.does(guest, notes.url.rpartition("/")[2], weapon, BAIT[how], rows)


def is_superuser(server: Server, role: str) -> bool:
    return bool(server.execute("select rolsuper from pg_roles where rolname = $1", role)[0][0])
