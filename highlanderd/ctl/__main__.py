"""``python -m highlanderd.ctl``."""

from __future__ import annotations

import sys

from highlanderd.ctl import command

sys.exit(command())
