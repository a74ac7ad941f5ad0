"""What tests of the packages share: the packages that were built, and tools that a machine may lack."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tool(name: str) -> str:
    """Give the path of a program, or skip the test."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def made(pattern: str) -> Path:
    """Give the one package of this name in the directory that HIGHLANDER_PACKAGES names; skips the test without one."""
    directory = os.environ.get("HIGHLANDER_PACKAGES")
    if not directory:
        pytest.skip("no packages were built; make packages-test does")
    [found] = (ROOT / directory).glob(pattern)
    return found
