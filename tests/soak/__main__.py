"""``make soak``: 200 programs misbehave for ten minutes, or ``--minutes N``. Exits with 1 when something is wrong."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

from tests.soak import SECONDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    given = float(os.environ.get(SECONDS, "600")) / 60
    parser.add_argument("--minutes", type=float, default=given, help="default: %(default)g")
    os.environ[SECONDS] = str(60 * parser.parse_args().minutes)
    return int(pytest.main(["-q", "--show-capture=no", "-p", "no:cacheprovider", str(Path(__file__).parent)]))


if __name__ == "__main__":
    sys.exit(main())
