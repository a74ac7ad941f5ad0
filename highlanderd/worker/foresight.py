"""What a reload would do to the programs of this node, before anything is done."""

from __future__ import annotations

from collections.abc import Mapping

from highlanderd.config import ProgramConfig, difference
from highlanderd.core.states import Want
from highlanderd.worker import changes
from highlanderd.worker.fleet import Fleet


class Foresight:
    """Says what ``Fleet.want`` would do."""

    def __init__(self, fleet: Fleet, node: str, namespace: str) -> None:
        self._fleet, self._node, self._namespace = fleet, node, namespace

    def plan(self, programs: Mapping[str, ProgramConfig]) -> tuple[str, ...]:
        """Return a line for each program that changes, comes or goes."""
        wanted = self._fleet.wanted
        lines = [f"{name}: removed: drains and leaves" for name in wanted if name not in programs]
        for name, new in programs.items():
            old = wanted.get(name)
            keys = difference(old, new) if old is not None else ()
            if old is None:
                lines.append(f"{name}: added: {'contends for the lead' if new.autostart else 'stays stopped'}")
            elif keys:
                effect = changes.effect(old, new, self._node, led=self._fleet.is_led(name))
                lines.append(f"{name}: changed ({', '.join(keys)}): {effect}")
        return tuple(lines)

    def restarted_by(self, programs: Mapping[str, ProgramConfig]) -> tuple[str, ...]:
        """Return the programs that are led here, and that would be drained and started again."""
        return tuple(
            name
            for name, new in programs.items()
            if self._fleet.is_led(name)
            and self._node not in new.never
            and changes.needs_new_child(self._fleet.members[name].spawner.config, new)
        )

    def added_by(self, programs: Mapping[str, ProgramConfig]) -> tuple[str, ...]:
        """Return the programs that this node has not now."""
        return tuple(name for name in programs if name not in self._fleet.wanted)

    def relocked_by(self, programs: Mapping[str, ProgramConfig]) -> tuple[str, ...]:
        """Return the programs that would contend for another lock; not those that were stopped here."""
        return tuple(
            name
            for name, new in programs.items()
            if (member := self._fleet.members.get(name)) is not None
            and member.program.situation.want is not Want.STOP
            and self._node not in new.never
            and member.lock_id != new.lock_id(self._namespace)
        )
