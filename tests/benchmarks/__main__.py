"""Run every measurement beside this file, one after the other; ``python -m tests.benchmarks.NAME`` runs one alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLACE = Path(__file__).parent
STANDS = {"__init__", "__main__", "bed", "lives", "peers", "profile", "profiled"}

for name in sorted({script.stem for script in PLACE.glob("*.py")} - STANDS):
    print(f"\n{name}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], cwd=PLACE.parents[1], check=True)
