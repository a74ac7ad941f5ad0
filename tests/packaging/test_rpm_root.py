"""The .rpm in a root file system of its own: installed, verified, replaced, erased.

There is no Fedora here: a small Debian lends the programs that scriptlets call, and what it requires is not resolved.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fix_packages import made, root_file_system, tool

from highlanderd import __version__


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


def test_from_installation_to_erasure(root: Path) -> None:
    package = made(f"highlander-{__version__}-*.x86_64.rpm")
    unresolved = ("--nodeps", "--nosignature")
    assert rpm(root, *unresolved, "--install", package).returncode == 0
    assert rpm(root, "--nodeps", "--verify", "highlander").stdout == ""
    said = subprocess.run(
        ["chroot", str(root), "highlanderd", "--version"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert said.stdout == f"highlanderd {__version__}\n"
    assert rpm(root, "--nodeps", "--verify", "highlander").stdout == ""

    file = root / "etc/highlander.toml"
    assert file.group() != "root"
    file.write_text(file.read_text() + "# ours\n")
    assert rpm(root, *unresolved, "--upgrade", "--replacepkgs", package).returncode == 0
    assert file.read_text().endswith("# ours\n")
    assert file.stat().st_mode & 0o777 == 0o640

    assert rpm(root, *unresolved, "--erase", "highlander").returncode == 0
    left = {str(path.relative_to(root)) for path in root.rglob("*highlander*")}
    assert left == {"etc/highlander.toml.rpmsave"}
