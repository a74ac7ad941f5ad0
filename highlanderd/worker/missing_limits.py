"""Programs that run without a limit by cgroup that they should have: what ``status`` says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from highlanderd.children.missing_limits import reason
from highlanderd.worker.member import Member


def sentences(members: Iterable[Member]) -> Iterator[str]:
    """Yield a sentence for each program that runs without a limit."""
    for member in members:
        config, program = member.spawner.config, member.program
        if config.limits and program.child is not None and program.running is not None:
            why = reason(config, program.child)
            if why:
                yield f"{program.name} runs without a limit: {why}"
