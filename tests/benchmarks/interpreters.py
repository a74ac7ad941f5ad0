"""Another Python than the one that runs this: what a keeper has as its own depends on its version."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

VERSIONS = ("3.13", "3.12")
"""The newest first."""
ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "packaging/requirements/dev.txt"
PATIENCE = 300.0
"""Seconds for pip."""


def newest() -> tuple[str, str] | None:
    """Return the newest version that is found, and its interpreter."""
    return next(((version, python) for version in VERSIONS if (python := fetched(version))), None)


def fetched(version: str) -> str | None:
    """Return a Python of this version with all that a daemon needs; None where there is none, or no PyPI.

    The package is compiled for it, as if it were installed: what a guardian compiles would lie among what it shares.
    """
    place = Path(tempfile.gettempdir()) / f"highlander-benchmark-python{version}"
    make = [f"python{version}", "-m", "venv", str(place)]
    install = [str(place / "bin/pip"), "install", "-qq", "--require-hashes", "-r", str(REQUIREMENTS)]
    chosen = {**os.environ, "PYENV_VERSION": version}  # pyenv runs none on PATH that is not chosen
    try:
        subprocess.run(make, env=chosen, stderr=subprocess.DEVNULL, check=True)
        subprocess.run(install, stderr=subprocess.DEVNULL, timeout=PATIENCE, check=True)
        subprocess.run([str(place / "bin/python"), "-m", "compileall", "-q", str(ROOT / "highlanderd")], check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return str(place / "bin/python")
