"""Measurements of the real thing. They print, and never fail for being slow."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # they stand on what the tests stand on
