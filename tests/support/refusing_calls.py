"""A library that lets calls of the system fail as on a network share, for a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

static int refused(const char *name) {
    const char *all = getenv("REFUSED"), *found = all ? strstr(all, name) : NULL;
    if (!found) return 0;
    errno = atoi(found + strlen(name));
    return 1;
}
#define REAL(name) ((int (*)())dlsym(RTLD_NEXT, #name))
static int synced(int fd) {
    struct stat status;
    if (fstat(fd, &status)) return 0;
    return refused(S_ISDIR(status.st_mode) ? "fsync-folder=" : "fsync-file=");
}
int fsync(int fd) { return synced(fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return synced(fd) ? -1 : REAL(fdatasync)(fd); }
int chmod(const char *p, mode_t m) { return refused("chmod=") ? -1 : REAL(chmod)(p, m); }
int fchmod(int fd, mode_t m) { return refused("chmod=") ? -1 : REAL(fchmod)(fd, m); }
int chown(const char *p, uid_t u, gid_t g) { return refused("chown=") ? -1 : REAL(chown)(p, u, g); }
int fchown(int fd, uid_t u, gid_t g) { return refused("chown=") ? -1 : REAL(fchown)(fd, u, g); }
int flock(int fd, int how) { return refused("flock=") ? -1 : REAL(flock)(fd, how); }
"""

_START = """
import asyncio, json, sys
from automigrator import MigrationError, Migrator, Target
url, config, recovery = json.loads(sys.argv[1])
recovery = [tuple(each) for each in recovery]
try:
    report = Migrator(Target(url, config), mode="migrate", recovery=recovery).run_sync()
except MigrationError as error:
    report = error.report
print(json.dumps(report.to_dict()))
"""


def library(folder: Path) -> Path:
    """Compile the library; skips the test where there is no compiler."""
    if shutil.which("gcc") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs gcc on Linux")
    source, made = folder / "refused.c", folder / "refused.so"
    source.write_text(_SOURCE, "utf-8")
    subprocess.run(["gcc", "-w", "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


def started(library: Path, url: str, config: Path, recovery: object, **refused: int) -> Any:
    """Start an application in a process whose calls fail with these errors; its report."""
    calls = ",".join(f"{name.replace('_', '-')}={code}" for name, code in refused.items())
    return reported([], url, config, recovery, LD_PRELOAD=str(library), REFUSED=calls)


_READ_ONLY = 'mount --make-rprivate / && mount -o remount,bind,ro / && exec "$@"'


def started_on_a_read_only_root(url: str, config: Path, **env: str) -> Any:
    """Start an application where only other mounts than the root may be written to; its report."""
    unshared = ["unshare", "-m", "sh", "-c", _READ_ONLY, "sh"]
    able = [*unshared, "true"]
    if shutil.which("unshare") is None or subprocess.run(able, capture_output=True).returncode:
        pytest.skip("this user may not make a mount namespace")
    return reported(unshared, url, config, [], **env)


def reported(prefix: list[str], url: str, config: Path, recovery: object, **env: str) -> Any:
    """Start an application in a process of its own; its report as JSON."""
    arguments = json.dumps([url, str(config), recovery])
    inherited = {name: value for name, value in os.environ.items() if "TMPDIR" not in name}
    ended = subprocess.run(
        [*prefix, sys.executable, "-c", _START, arguments],
        env={**inherited, **env},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
