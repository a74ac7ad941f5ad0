"""What tests of the packages share: the packages that were built, and tools that a machine may lack."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = ROOT / "build/packages"
INCLUDED = "systemd,systemd-sysv,dbus,python3,procps,init-system-helpers"
FETCH = "APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq --yes --download-only --install-recommends install libpq5"
KINDS = {
    "": (f"--include={INCLUDED},libpq5",),
    "-apt": (f"--include={INCLUDED}", "--skip=cleanup/apt", f"--customize-hook={FETCH}"),
}
"""Debians: one that lacks nothing, and one where apt has to find what is needed, without any network."""


def tool(name: str) -> str:
    """Return the path of a program, or skip the test."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def made(pattern: str) -> Path:
    """Return the one package of this name in the directory that HIGHLANDER_PACKAGES names; else skip the test."""
    directory = os.environ.get("HIGHLANDER_PACKAGES")
    if not directory:
        pytest.skip("no packages were built; make packages-test does")
    [found] = (ROOT / directory).glob(pattern)
    return found


def root_beneath(release: str, kind: str = "") -> Path:
    """Return a small Debian of this release to lay something over: nobody writes into it. Kept for the next run."""
    kept = ROOTS / f"{release}{kind}"
    ROOTS.mkdir(parents=True, exist_ok=True)
    with (ROOTS / f"{kept.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory(prefix=f"{release}.", dir=ROOTS) as part:
                root_file_system(release, Path(part) / "root", kind).rename(kept)
    return kept


def root_file_system(release: str, directory: Path, kind: str = "") -> Path:
    """Unpack a small Debian of this release into ``directory``; it is made when there is none yet."""
    if os.geteuid():
        pytest.skip("needs root, for a root file system")
    tool("mmdebstrap")
    packed = ROOTS / f"{release}{kind}.tar"
    if not packed.exists():
        part = packed.with_suffix(".part.tar")
        command = ["mmdebstrap", "--quiet", "--variant=minbase", *KINDS[kind], release, str(part)]
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
            part.unlink(missing_ok=True)
            pytest.skip(f"needs a mirror of Debian that has {release}")
        part.rename(packed)
    directory.mkdir()
    subprocess.run(["tar", "-C", str(directory), "-xf", str(packed)], check=True)
    return directory
