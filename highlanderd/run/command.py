"""Whether a command can be executed, and the exit codes of a run.

Scripts know the codes: sysexits.h has 69 to 75, env(1) 126 and 127, the shells what is above.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from highlanderd.guardian.launch import DEFAULT_PATH, candidates

if TYPE_CHECKING:
    from collections.abc import Mapping

UNREACHABLE: Final = 69
LOST: Final = 70
BUSY: Final = 75
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
SIGNALLED: Final = 128
"""Plus the number of the signal."""


def of_status(status: int) -> int:
    """Return the exit code for a wait status.

    >>> of_status(3 << 8), of_status(15)
    (3, 143)
    """
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else SIGNALLED - code


def unstarted(program: str, environ: Mapping[str, str]) -> int:
    """Return the code of a program that could not be executed: 127 if there is none of that name, else 126."""
    return NOT_EXECUTABLE if _places(program, environ) else NOT_FOUND


def refusal(program: str, environ: Mapping[str, str]) -> str:
    """Return what keeps a program from being executed, as far as its file shows; empty for nothing."""
    places = _places(program, environ)
    if not places:
        return f"cannot execute {program!r}: there is no such command; install it, or correct it"
    if any(os.access(place, os.X_OK) and not os.path.isdir(place) for place in places):  # noqa: PTH112
        return ""
    return f"cannot execute {program!r}: permission denied; make it executable (chmod +x), its directories included"


def _places(program: str, environ: Mapping[str, str]) -> list[bytes]:
    """Return the paths at which there is something of that name, as the child will look for it."""
    path = os.fsencode(environ["PATH"]) if "PATH" in environ else DEFAULT_PATH
    return [place for place in candidates(os.fsencode(program), path) if os.path.lexists(place)]
