"""Programs that start after others, as the key ``after`` says: what each still waits for, and who may look at once."""

from __future__ import annotations

from collections.abc import Mapping

from highlanderd.config import ProgramConfig
from highlanderd.core.events import Notified
from highlanderd.core.states import Ready, Waiting
from highlanderd.worker.member import Member
from highlanderd.worker.placement import Placement


class StartOrder:
    """Knows which of this node's programs are up, and by ``placement`` which of others' are."""

    def __init__(self, members: Mapping[str, Member], placement: Placement) -> None:
        self._members, self._placement = members, placement
        self._wanted: Mapping[str, ProgramConfig] = {}
        self._awaited: frozenset[str] = frozenset()
        """The programs that others start after."""

    def want(self, programs: Mapping[str, ProgramConfig]) -> None:
        """Go by these programs from now on."""
        self._wanted = programs
        self._awaited = frozenset(name for config in programs.values() for name in config.after)

    @property
    def matters(self) -> bool:
        """Whether a program starts after another one."""
        return bool(self._awaited)

    def missing(self, program: str) -> str:
        """Return the first program that this one starts after, and that is not up anywhere; empty when all are."""
        config = self._wanted.get(program)
        return next((name for name in config.after if not self._is_up(name)), "") if config is not None else ""

    def _is_up(self, name: str) -> bool:
        config = self._wanted.get(name)
        return self._is_ready(name) or config is None or self._placement.is_up(config)

    def _is_ready(self, name: str) -> bool:
        member = self._members.get(name)
        return member is not None and isinstance(member.program.running, Ready)

    def follow(self, name: str) -> None:
        """Have those look at once that only wait for this program, if it is ready now."""
        if name in self._awaited and self._is_ready(name):
            for member in self._members.values():
                state = member.program.situation.state
                if name in member.spawner.config.after and isinstance(state, Waiting) and state.vacancy is not None:
                    member.program.post(Notified())
