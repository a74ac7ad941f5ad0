"""What a configuration needs of this host, and how many of its programs the host's limits are enough for.

Guardian and worker each have the same limit on descriptors; all processes and threads count together. What each holds
for a program follows from the program's keys; what listeners and the daemon itself hold is a constant. What programs
start themselves is not known, and not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Final

from msgspec import Struct

from highlanderd.config.probes import ExecCheck, Probe
from highlanderd.config.program import ProgramConfig
from highlanderd.system import host_limits
from highlanderd.system.host_limits import NO_LIMIT, HostLimit

OWN: Final = 64
"""Descriptors of the worker's own: standard ones, timers, listeners, sessions that listen and probe, files it reads."""
RESERVE: Final = 64
"""Descriptors for control, metrics and keepers' first messages, which programs must never take."""
GUARDIANS_OWN: Final = 48
OWN_PROCESSES: Final = 16
"""Guardian, fork server and the fork that waits, worker and spare with their threads, a rehearsal, and those that look
at paths and users."""
OWN_MEMORY: Final = 80 << 20
"""Bytes of guardian, worker and spare; measured: 76 MB, what they share counted once."""
KEEPERS_MEMORY, LOGGERS_MEMORY = 1_500_000, 2_000_000
"""Bytes of each one's own; measured: 1.4 and 1.8 MB with Python 3.11, 0.75 and 1.0 with 3.12 and 3.13."""


class Limits(Struct, frozen=True):
    """What this host lets the daemon have."""

    files: HostLimit = NO_LIMIT
    processes: HostLimit = NO_LIMIT


def limits() -> Limits:
    """Return what this host lets a daemon have that runs as this process does."""
    return Limits(host_limits.files(), host_limits.processes())


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
    return any(not isinstance(probe.check, ExecCheck) for probe in _probes(program))


def _probes(program: ProgramConfig) -> list[Probe]:
    return [how for how in (program.ready, program.alive) if isinstance(how, Probe)]


def _streams(program: ProgramConfig) -> int:
    return sum(where != "null" for where in (program.stdout, program.stderr))


def processes_of(program: ProgramConfig) -> int:
    """Return how many processes and threads one led here is, at least: keeper, child, logger, its probe.

    >>> processes_of(ProgramConfig(name="beat", command=("true",), stdout="null", stderr="null"))
    2
    """
    files = {program.stdout, program.stderr} - {"inherit", "null"}
    threads = len(files) if program.log_overflow == "drop" else 0
    return 1 + bool(_streams(program)) + threads + processes_of_user(program)


def processes_of_user(program: ProgramConfig) -> int:
    """Return how many processes of its user one led here is, at least: child and probe. Its logger may be the daemon's.

    >>> processes_of_user(ProgramConfig(name="beat", command=("true",)))
    1
    """
    return 1 + sum(isinstance(probe.check, ExecCheck) for probe in _probes(program))


def memory(programs: Iterable[ProgramConfig]) -> int:
    """Return about how many bytes highlanderd itself takes while it leads all of these."""
    return OWN_MEMORY + sum(KEEPERS_MEMORY + LOGGERS_MEMORY * bool(_streams(program)) for program in programs)


class _Usage(Struct, frozen=True):
    """What is taken of one limit: by the daemon itself, and for each program that is led."""

    limit: Callable[[Limits], HostLimit]
    own: int
    of: Callable[[ProgramConfig], int]

    def needed(self, programs: Iterable[ProgramConfig]) -> int:
        return self.own + sum(map(self.of, programs))

    def fitting(self, programs: Iterable[ProgramConfig], limits: Limits) -> int:
        """Return how many of the programs the limit is enough for, the first ones."""
        sums = accumulate(map(self.of, programs), initial=self.own)
        return max(sum(taken <= self.limit(limits).most for taken in sums) - 1, 0)


_FILES: Final = attrgetter("files")
_OF_PROCESSES: Final = _Usage(attrgetter("processes"), OWN_PROCESSES, processes_of)
_USAGES: Final = {
    _Usage(_FILES, OWN + RESERVE, of_worker): "open files",
    _Usage(_FILES, GUARDIANS_OWN + RESERVE, of_guardian): "open files",
    _OF_PROCESSES: "processes and threads",
}
"""What may be short, and what it is called."""


def descriptors(programs: Iterable[ProgramConfig]) -> int:
    """Return the limit on descriptors that is enough for all of these at once."""
    listed = list(programs)
    return max(usage.needed(listed) for usage in _USAGES if usage.limit is _FILES)


def processes(programs: Iterable[ProgramConfig]) -> int:
    """Return the limit on processes and threads without which not all of these can be led at once."""
    return _OF_PROCESSES.needed(programs)


def affordable(programs: Mapping[str, ProgramConfig], limits: Limits) -> frozenset[str]:
    """Return the programs that the limits are enough for: the first ones, in the order of the file."""
    fitting = min(usage.fitting(programs.values(), limits) for usage in _USAGES)
    return frozenset(list(programs)[:fitting])


def need(programs: Mapping[str, ProgramConfig]) -> tuple[str, ...]:
    """Return what is needed, in lines.

    >>> print(*need({"beat": ProgramConfig(name="beat", command=("true",))}), sep="\\n")
    for all programs to be led here:
      the limit on open files (LimitNOFILE)  131 or more
      processes and threads (TasksMax)       19 or more, and what the programs start
      memory of highlanderd itself           about 87 MB, and what the programs take
    """
    listed = programs.values()
    needed = {
        "the limit on open files (LimitNOFILE)": f"{descriptors(listed)} or more",
        "processes and threads (TasksMax)": f"{processes(listed)} or more, and what the programs start",
        "memory of highlanderd itself": f"about {memory(listed) / 1e6:.0f} MB, and what the programs take",
    }
    return ("for all programs to be led here:", *(f"  {what:<39}{much}" for what, much in needed.items()))


def shortage(programs: Mapping[str, ProgramConfig], limits: Limits) -> str:
    """Return a sentence when a limit is not enough for all programs, of the tightest one; empty when all are.

    >>> shortage({"beat": ProgramConfig(name="beat", command=("true",))}, Limits())
    ''
    """
    listed = programs.values()
    short = min(_USAGES, key=lambda usage: usage.fitting(listed, limits))
    needed, limit, led = short.needed(listed), short.limit(limits), short.fitting(listed, limits)
    if led == len(programs):
        return ""
    return (
        f"these programs need {needed} {_USAGES[short]}, and this process may have {limit.most}: only the first {led} "
        f"of {len(programs)} contend on this node; raise the limit ({limit.by})"
    )


def crowd(programs: Sequence[ProgramConfig], limit: HostLimit) -> str:
    """Return a sentence when a user may not have the processes of all of its programs; empty when it may.

    >>> crowd([ProgramConfig(name="beat", command=("true",))], HostLimit(1, "nproc in limits"))
    ''
    """
    needed = sum(map(processes_of_user, programs))
    if needed <= limit.most:
        return ""
    whose = "program of its user needs" if len(programs) == 1 else f"{len(programs)} programs of its user need"
    return (
        f"the {whose} {needed} processes or more, and RLIMIT_NPROC lets that user have {limit.most}: where all of that "
        f"is led, no more can be started (EAGAIN); raise the limit ({limit.by})"
    )


def scarcity(programs: Mapping[str, ProgramConfig], limit: HostLimit) -> str:
    """Return a sentence when there is less memory than highlanderd itself takes; empty when there is enough.

    >>> scarcity({"beat": ProgramConfig(name="beat", command=("true",))}, HostLimit(1 << 30, "memory.max"))
    ''
    """
    needed = memory(programs.values())
    if needed <= limit.most:
        return ""
    return (
        f"highlanderd itself takes about {needed / 1e6:.0f} MB of memory to lead all of these programs here, and there "
        f"are {limit.most / 1e6:.0f} MB ({limit.by}): the kernel will kill processes; give it more, or lead fewer here"
    )
