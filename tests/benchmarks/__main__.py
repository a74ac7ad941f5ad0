"""Run every ``bench_*.py`` beside this file. They measure and print; none of them can fail for being slow."""

from __future__ import annotations

import runpy
from pathlib import Path

for script in sorted(Path(__file__).parent.glob("bench_*.py")):
    print(f"\n{script.stem.removeprefix('bench_')}", flush=True)
    runpy.run_path(str(script), run_name="__main__")
