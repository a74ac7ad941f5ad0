"""How many descriptors a configuration needs, and how many of its programs a limit is enough for.

Guardian and worker each have the same limit. What each holds for a program follows from the program's keys; what
listeners and the daemon itself hold is a constant.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Mapping
from typing import Final

from highlanderd.config.probes import ExecCheck, Probe
from highlanderd.config.program import ProgramConfig

OWN: Final = 64
"""Descriptors of the worker's own: standard ones, timers, listeners, sessions that listen and probe, files it reads."""
RESERVE: Final = 64
"""Descriptors for control, metrics and keepers' first messages, which programs must never take."""
GUARDIANS_OWN: Final = 48


def file_limit() -> int:
    """Return how many files the daemon's processes may open: they raise their own limit to the hard one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def of_worker(program: ProgramConfig) -> int:
    """Return what the worker holds for a program led here: session, keeper's channel, logger's report, its probe.

    >>> of_worker(ProgramConfig(name="beat", command=("true",)))
    3
    """
    return 2 + bool(_streams(program)) + _is_asked(program)


def of_guardian(program: ProgramConfig) -> int:
    """Return what the guardian holds for it: the channel to its keeper, and its logger's pipes and report."""
    return 1 + _streams(program) + bool(_streams(program))


def _is_asked(program: ProgramConfig) -> bool:
    """Return whether the worker connects with the program, to ask whether it is ready or well."""
    asked = (how.check for how in (program.ready, program.alive) if isinstance(how, Probe))
    return any(not isinstance(check, ExecCheck) for check in asked)


def _streams(program: ProgramConfig) -> int:
    return sum(where != "null" for where in (program.stdout, program.stderr))


def descriptors(programs: Iterable[ProgramConfig]) -> int:
    """Return the limit on descriptors that is enough for all of these at once."""
    listed = list(programs)
    worker = OWN + RESERVE + sum(map(of_worker, listed))
    return max(worker, GUARDIANS_OWN + RESERVE + sum(map(of_guardian, listed)))


def affordable(programs: Mapping[str, ProgramConfig], limit: int) -> frozenset[str]:
    """Return the programs that ``limit`` descriptors are enough for: the first ones, in the order of the file."""
    worker, guardian, names = OWN + RESERVE, GUARDIANS_OWN + RESERVE, set[str]()
    for name, program in programs.items():
        worker, guardian = worker + of_worker(program), guardian + of_guardian(program)
        if max(worker, guardian) > limit:
            break
        names.add(name)
    return frozenset(names)


def need(programs: Mapping[str, ProgramConfig]) -> str:
    """Return what is needed, as a line.

    >>> need({"beat": ProgramConfig(name="beat", command=("true",))})
    'the limit on open files (LimitNOFILE) must be 131 or more for all programs to be led here'
    """
    needed = descriptors(programs.values())
    return f"the limit on open files (LimitNOFILE) must be {needed} or more for all programs to be led here"


def shortage(programs: Mapping[str, ProgramConfig], limit: int) -> str:
    """Return a sentence when ``limit`` is not enough for all programs; empty when it is.

    >>> shortage({"beat": ProgramConfig(name="beat", command=("true",))}, 4096)
    ''
    """
    needed, led = descriptors(programs.values()), len(affordable(programs, limit))
    if needed <= limit:
        return ""
    return (
        f"these programs need {needed} open files, and this process may have {limit}: only the first {led} of "
        f"{len(programs)} contend on this node; raise the hard limit (LimitNOFILE in the unit, ulimit -Hn)"
    )
