"""A logger without a guardian: ``lone_logger.py ARGUMENTS``, marshalled in hexadecimal; descriptors are inherited."""

from __future__ import annotations

import marshal
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from highlanderd.guardian.logger import become_logger
from highlanderd.system import linux

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)

if __name__ == "__main__":
    spec, pipes, report, again = marshal.loads(bytes.fromhex(sys.argv[1]))  # noqa: S302 - a test wrote it
    linux.block_signals()
    sys.exit(become_logger(spec, pipes, report, linux.Signals(SIGNALS), again=again))
