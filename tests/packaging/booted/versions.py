"""The next version of a package: the same programs under another number."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from highlanderd import __version__

NEXT = f"{__version__}.post1"


def following(deb: Path, tree: Path, to: Path, configuration: str = "") -> None:
    """Make it of a .deb, which is taken to pieces in ``tree``; with so much more in its configuration file."""
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    _rewrite(tree / "DEBIAN/control", r"^(Version: .*)(-\d+)$", r"\1.post1\2")
    _rewrite(tree / "usr/lib/highlander/highlanderd/__init__.py", re.escape(__version__), NEXT)
    with (tree / "etc/highlander.toml").open("a") as file:
        file.write(configuration)
    subprocess.run(["dpkg-deb", "-Znone", "--build", tree, to], check=True, stdout=subprocess.DEVNULL)


def _rewrite(path: Path, pattern: str, by: str) -> None:
    text, times = re.subn(pattern, by, path.read_text(), flags=re.MULTILINE)
    assert times == 1, path
    path.write_text(text)
