"""The three standard descriptors, which a caller may have closed."""

from __future__ import annotations

import os
import sys


def open_closed() -> None:
    """Open /dev/null as those of the three that are closed: other files would take their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def fill() -> None:
    """Do so, and let ``sys`` have streams for them."""
    open_closed()
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - for as long as we live
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
