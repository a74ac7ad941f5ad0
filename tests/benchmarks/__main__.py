"""Measure, print, and keep the raw samples: ``make bench``; ``BENCH_ARGS='handover start'`` measures these parts only.

All parts that are named below take less than half an hour together. ``--into FILE`` says where the samples go; then
``python -m tests.benchmarks.pages FILE`` puts them into the documentation. Others run by name: ``python -m
tests.benchmarks.NAME``. A part that fails is said, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from .goals import judged
from .pages import read

PLACE = Path(__file__).parent
PARTS = ("handover", "start", "replacement", "frozen", "outages", "lost", "growth", "output")
LONGEST = 900.0
"""Seconds for one part."""


def machine() -> str:
    """Say what this runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1e6
    software = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} processors ({model}), {memory:.0f} GB, {software}"


def commit() -> str:
    """Return which commit is measured."""
    found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=PLACE, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Run the parts, one after the other."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--into", type=Path, default=Path("bench-results.jsonl"), metavar="FILE")
    arguments = parser.parse_args()
    into, began = arguments.into.absolute(), time.time()
    into.unlink(missing_ok=True)
    environment = {**os.environ, "BENCH_RESULTS": str(into)}
    for part in arguments.parts or PARTS:
        print(f"\n{part}, after {(time.time() - began) / 60:.1f} minutes", flush=True)
        command = [sys.executable, "-m", f"tests.benchmarks.{part}"]
        try:
            subprocess.run(command, cwd=PLACE.parents[1], env=environment, check=True, timeout=LONGEST)
        except subprocess.SubprocessError as error:
            print(f"  {part} was not measured to its end: {error}", flush=True)
    facts = {"machine": machine(), "commit": commit(), "date": time.strftime("%d %B %Y", time.gmtime(began))}
    with into.open("a") as file:
        file.write(json.dumps({**facts, "seconds": time.time() - began}) + "\n")
    print(f"\ngoals, on {facts['machine']}, load {os.getloadavg()[0]:.1f} at the end")
    for words, found, limit, verdict in judged(read(into)[1]):
        if found == "not measured" and arguments.parts:
            continue
        print(f"  {words:46} {found:>14}   limit {limit:>12}   {verdict}")
    print(f"\nraw samples: {into}; into the documentation: {sys.executable} -m tests.benchmarks.pages {into}")


if __name__ == "__main__":
    main()
