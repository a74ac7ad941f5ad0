"""The .rpm in a root file system of its own: installed, verified, replaced, erased.

There is no Fedora here: a small Debian lends the programs that scriptlets call, and what it requires is not resolved.
Where a machine can be booted from that root, the daemon of the .rpm runs there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd import __version__
from tests.packaging.booted.machine import PATIENCE, Machine, machines_lacking
from tests.support.packages import made, root_file_system, tool
from tests.support.postgres import Database
from tests.support.wait import wait_for


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    tool("rpm")
    made(f"highlander-{__version__}-*.x86_64.rpm")
    directory = root_file_system("bookworm", tmp_path / "root")
    rpm(directory, "--initdb")
    yield directory
    shutil.rmtree(directory)


def rpm(root: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [tool("rpm"), "--root", str(root), *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


UNRESOLVED = ("--nodeps", "--nosignature")


@pytest.mark.timeout(600)
def test_from_installation_to_erasure(root: Path) -> None:
    package = made(f"highlander-{__version__}-*.x86_64.rpm")
    assert rpm(root, *UNRESOLVED, "--install", package).returncode == 0
    assert rpm(root, "--nodeps", "--verify", "highlander").stdout == ""
    said = subprocess.run(
        ["chroot", str(root), "highlanderd", "--version"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert said.stdout == f"highlanderd {__version__}\n"
    assert rpm(root, "--nodeps", "--verify", "highlander").stdout == ""

    file = root / "etc/highlander.toml"
    assert file.group() != "root"
    file.write_text(file.read_text() + "# ours\n")
    assert rpm(root, *UNRESOLVED, "--upgrade", "--replacepkgs", package).returncode == 0
    assert file.read_text().endswith("# ours\n")
    assert file.stat().st_mode & 0o777 == 0o640

    assert rpm(root, *UNRESOLVED, "--erase", "highlander").returncode == 0
    left = {str(path.relative_to(root)) for path in root.rglob("*highlander*")}
    assert left == {"etc/highlander.toml.rpmsave"}


@pytest.mark.timeout(600)
def test_its_daemon_runs_on_systemd_and_changes_none_of_its_files(
    root: Path, database: Database, tmp_path: Path
) -> None:
    if why := machines_lacking(tmp_path):
        pytest.skip(why)
    assert rpm(root, *UNRESOLVED, "--install", made(f"highlander-{__version__}-*.x86_64.rpm")).returncode == 0
    machine = Machine("rpm", root, tmp_path / "machine")
    try:
        machine.boot()
        machine.await_up()
        machine.configure('[program.beat]\ncommand = ["sleep", "infinity"]\n', postgres=f'dsn = "{database.dsn}"\n')
        machine.does("systemctl", "enable", "--now", "highlanderd")
        wait_for(lambda: machine.led().keys() == {"beat"}, PATIENCE, "the program is led")
        machine.does("systemctl", "reload", "highlanderd")
        machine.does("systemctl", "stop", "highlanderd")
        assert "everything is drained; ends with code 0" in machine.journal()
        # What was written lies over the root: of the package's files, only the configuration may be there.
        files = rpm(root, "--query", "--list", "highlander").stdout.split()
        assert [path for path in files if (machine.home / "upper" / path[1:]).is_file()] == ["/etc/highlander.toml"]
    finally:
        machine.close()
        shutil.rmtree(machine.home)
