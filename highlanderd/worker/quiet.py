"""Recording and showing never raise into what is recorded and shown."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")
log = logging.getLogger(__name__)


def quietly(call: Callable[P, None]) -> Callable[P, None]:
    """Return ``call`` as one that never raises. Its first failure is logged with its traceback: it is a bug."""
    logged = False

    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        nonlocal logged
        try:
            call(*args, **kwargs)
        except Exception:
            if not logged:
                logged = True
                log.exception("what has happened cannot be recorded or shown")

    return run
