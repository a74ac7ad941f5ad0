"""``make hostile``: the hostile neighbour for ten minutes, or ``--minutes N``. Exits with 1 when another noticed."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

from tests.hostile import SECONDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="default: %(default)g")
    os.environ[SECONDS] = str(60 * parser.parse_args().minutes)
    return int(pytest.main(["-q", "-s", "-p", "no:cacheprovider", str(Path(__file__).with_name("test_hostile.py"))]))


if __name__ == "__main__":
    sys.exit(main())
