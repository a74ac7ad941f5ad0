"""The programs of the soak: so many of each kind, and two files that differ in what a reload does in every way."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.soak import SECONDS

CHILD: Final = Path(__file__).parents[1] / "children" / "soak_child.py"
SHARE: Final = 1 if SECONDS in os.environ else 5
"""``make test-long`` runs a fifth of them for a moment: that finds no slow growth, but whatever stays, or disagrees."""
COUNTS: Final[Mapping[str, int]] = {
    "calm": 50 // SHARE,
    "crash": 40 // SHARE,
    "spew": 25 // SHARE,
    "watched": 15 // SHARE,
    "web": 15 // SHARE,
    "door": 5 // SHARE,
    "asked": 5 // SHARE,
    "fork": 20 // SHARE,
    "deaf": 15 // SHARE,
    "finish": 10 // SHARE,
}
"""By kind; ``calm`` ones do nothing but live, and nobody signals them."""
QUESTION: Final = (
    '[ -e "$SOAK_QUIET" ] || case $(($$$$ % 20)) in 0) sleep 5 ;; 1) sleep 5 & ;; 2) exit 1 ;; esac; '
    '[ ! -e "$SOAK_QUIET.$HIGHLANDER_PROGRAM" ]'
)
"""What a program is asked by a command; `$$` is a dollar there. Some hang, some leave a process behind, some fail."""
KEYS: Final[Mapping[str, str]] = {
    "deaf": "stop_timeout = 1",
    "finish": 'restart = "on-failure"',
    "watched": 'ready = "notify"\nalive = "notify"\nalive_timeout = 4',
    "crash": 'before_start = ["true"]\nafter_stop = ["true"]\nhook_timeout = 5',
}
"""What a kind has in addition."""
EDITED: Final = ("crash-1", "crash-2", "fork-1", "spew-1")
"""Programs to which the other file gives another ``umask``: a reload starts them again."""


def names() -> list[str]:
    """Return the names of all programs, kind by kind."""
    return [f"{kind}-{number}" for kind, count in COUNTS.items() for number in range(count)]


def kind_of(name: str) -> str:
    """Return the kind of a program."""
    return name.rpartition("-")[0]


def with_ports() -> list[str]:
    """Return the names of the programs that listen on a port each."""
    return [name for name in names() if kind_of(name) in ("web", "door")]


def with_files() -> set[str]:
    """Return the names of the programs that write into a file of their own."""
    return {name for name in names() if kind_of(name) == "spew" and int(name.rpartition("-")[2]) % 2}


def tables(home: Path, ports: Mapping[str, int], *, edited: bool) -> str:
    """Return the programs' part of a node's file; ``edited`` is the other version of it."""
    return "\n".join(_table(name, home, ports, edited=edited) for name in names())


def _table(name: str, home: Path, ports: Mapping[str, int], *, edited: bool) -> str:
    kind, port = kind_of(name), ports.get(name)
    words = [sys.executable, "-I", "-S", str(CHILD), kind, *([] if port is None else [str(port)])]
    lines = [f"[program.{name}]", f"command = {json.dumps(words)}", "backoff_max = 2", KEYS.get(kind, "")]
    question = {"web": f'http = "http://127.0.0.1:{port}/"', "door": f'tcp = "127.0.0.1:{port}"'}
    question["asked"] = f"exec = {json.dumps(['sh', '-c', QUESTION])}"
    if kind in question:
        asked = f'{{ {question[kind]}, period = "2s", timeout = "1s", threshold = 3 }}'
        lines += [f"ready = {asked}", f"alive = {asked}"]
    if name in with_files():
        lines += [f'stdout = "{home}/{name}.log"', "log_max_bytes = 300000", "log_backups = 2", "log_compress = true"]
    if edited:
        lines += ["umask = '077'"] if name in EDITED else ["log_timestamps = true"] if kind == "spew" else []
    return "\n".join(lines)
