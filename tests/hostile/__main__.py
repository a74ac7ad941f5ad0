"""``make hostile``: the hostile neighbour for ten minutes, or ``--minutes N``. Exits with 1 when another noticed."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

from tests.hostile import SECONDS

PATIENCE = 300.0
"""Seconds for the beginning and the end on a busy machine."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="default: %(default)g")
    seconds = 60 * parser.parse_args().minutes
    os.environ[SECONDS] = str(seconds / 2)  # for each of two tests
    bound = f"--timeout={seconds + PATIENCE:.0f}"
    return int(pytest.main(["-q", "-s", "-p", "no:cacheprovider", bound, str(Path(__file__).parent)]))


if __name__ == "__main__":
    sys.exit(main())
