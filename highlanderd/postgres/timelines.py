"""Which server is the past: the one on an older timeline than this node has seen."""

from __future__ import annotations

from highlanderd.core.verdict import old_timeline
from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.memory import NodeMemory
from highlanderd.postgres.notes import Notes
from highlanderd.postgres.wire import Wire


class Timelines:
    """The open connections by the timeline of their server, and the highest timeline of each system."""

    def __init__(self, memory: NodeMemory, notes: Notes) -> None:
        self._memory, self._notes = memory, notes
        self._admitted: list[tuple[Wire, str, int]] = []

    def admit(self, wire: Wire, system: str, timeline: int) -> None:
        """Let a connection be used, and drop it later when its server turns out to be the past.

        Raises Unfit, with an alarm, for a server on an older timeline than this node has seen.
        """
        newest = self._memory.timeline(system)
        if timeline < newest:
            why = old_timeline(system, timeline, newest)
            self._notes.alarm(why)
            raise Unfit(why)
        self.learn(system, timeline)
        self._admitted = [known for known in self._admitted if known[0].open]
        self._admitted.append((wire, system, timeline))

    def learn(self, system: str, timeline: int) -> None:
        """Note a timeline, and drop every connection whose server is still on an older one of that system.

        A leader that went on renewing there would lead at the same time as one that the promoted server knows.
        """
        if not self._memory.learn_timeline(system, timeline):
            return
        for wire, its_system, older in self._admitted:
            if its_system == system and older < timeline:
                wire.drop(f"its server is still on timeline {older}, another one was promoted to {timeline}")
