"""``highlanderctl``: asks the daemon of this machine, and passes orders to it, through its control socket.

It starts in a few hundredths of a second, because people put it into prompts and scripts: it imports nothing but the
standard library, and of that only what a command needs. It knows the daemon's answers as JSON, and decides nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from highlanderd import descriptors
from highlanderd.errors import INTERRUPTED


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Ctrl-C while the rest is imported is answered, too."""
    try:
        descriptors.fill()
        from highlanderd.ctl.ahead import asked

        words = sys.argv[1:] if argv is None else argv
        ahead = asked(words)
        from highlanderd.ctl.command_line import run

        return run(words, ahead)
    except KeyboardInterrupt:
        return INTERRUPTED


def command() -> int:
    """Be the process of one command, and end it here: to take an interpreter apart takes as long as a command.

    Returns the exit code where an output cannot be written, for Python to say so.
    """
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return code
    os._exit(code)
