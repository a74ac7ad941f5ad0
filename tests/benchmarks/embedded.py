"""What the embedded server costs: the first start, a start with a database, a further user, and memory."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from highlanderd.embedded import server as embedded
from tests.support.postgres import DISK, passable_directory

from .processes import private_kilobytes

ROUNDS = 5


def timed(directory: Path) -> tuple[float, int]:
    """Start; gives milliseconds, and the descriptor that keeps the server running."""
    began = time.perf_counter()
    used = embedded.start(directory, 60)
    return (time.perf_counter() - began) * 1000, used.lock_fd


def tending(directory: Path) -> dict[int, str]:
    """Return steward and server of a directory, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # processes end while we look
            if entry.name.isdigit() and str(directory).encode() in entry.joinpath("cmdline").read_bytes():
                found[int(entry.name)] = entry.joinpath("comm").read_text().strip()
    return found


def main() -> None:
    """Print one line for each figure, medians of a few rounds."""
    starts: dict[str, list[float]] = {"created": [], "started": [], "joined": []}
    with passable_directory(DISK) as place:
        for number in range(ROUNDS):
            measure(place / str(number), starts, last=number == ROUNDS - 1)
    for kind, spent_each in starts.items():
        print(f"  {kind:<14} {sorted(spent_each)[len(spent_each) // 2]:>6.0f} ms")


def measure(directory: Path, starts: dict[str, list[float]], *, last: bool) -> None:
    """Create a server, start it again, and join it both times; the last one's memory is printed."""
    for kind in ("created", "started"):
        spent, held = timed(directory)
        joined, also = timed(directory)
        starts[kind].append(spent)
        starts["joined"].append(joined)
        if last and kind == "started":
            for pid, name in tending(directory).items():
                with contextlib.suppress(OSError):  # the server's own processes come and go
                    print(f"  {name:<14} {private_kilobytes(pid):>6} kB private")
        os.close(held)
        os.close(also)
        while tending(directory):
            time.sleep(0.05)


if __name__ == "__main__":
    main()
