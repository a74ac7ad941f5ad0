"""What this node knows of other nodes for placement, and what it gives back to nodes that are preferred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from highlanderd.config import ProgramConfig
from highlanderd.core.events import ReleaseOrdered
from highlanderd.core.placement import Failback, Peers, failback
from highlanderd.core.states import Author
from highlanderd.durations import shown
from highlanderd.postgres.standing import Standing
from highlanderd.postgres.survey import Leader
from highlanderd.worker.program import Program

KEPT_FOR: Final = 5.0
"""Seconds for which what is given back waits for the node that is preferred: much longer than a takeover takes."""


class Placement:
    """The other nodes as they were read last."""

    def __init__(self, leaders: Callable[[], Mapping[int, Leader]]) -> None:
        """``leaders`` returns who leads what, by lock id, as the latest survey showed it."""
        self._leaders = leaders
        self._counted: tuple[Mapping[int, Leader], Counter[str]] = {}, Counter()
        """The survey that was counted last, and how many programs each node leads by it: every look asks for that."""
        self._standing: Standing | None = None
        self._failbacks: dict[str, Failback] = {}
        """By program, also while another node leads it: whether it failed there counts when it comes back."""

    def read(self, standing: Standing) -> None:
        """Take in which other nodes wait for which programs."""
        self._standing = standing

    @property
    def known(self) -> bool:
        """Whether that was read already."""
        return self._standing is not None

    def peers(self, program: str, led: int, missing: str = "") -> Peers:
        """Return the nodes that wait for a program; ``led`` is how many programs this node leads."""
        if self._standing is None:
            return Peers(led=led, missing=missing)
        counts = self._counts()
        able = {node: counts[node] for node, programs in self._standing.waiting.items() if program in programs}
        others = {node: counts[node] for node, programs in self._standing.others.items() if program in programs}
        return Peers(able, led, others, missing)

    def awaited(self, program: str) -> bool:
        """Return whether another node waits for a program, and could lead it."""
        return self._standing is not None and any(program in programs for programs in self._standing.waiting.values())

    def _counts(self) -> Counter[str]:
        leaders = self._leaders()
        if leaders is not self._counted[0]:  # each survey is another mapping
            self._counted = leaders, Counter(leader.node for leader in leaders.values() if leader.leads)
        return self._counted[1]

    def is_up(self, config: ProgramConfig) -> bool:
        """Return whether a program is ready on some node, or has finished with success, as far as the ledger shows."""
        if self._standing is None:
            return False
        if config.name in self._standing.ready:
            return True
        status, signal = self._standing.finished.get(config.name, (None, "-"))
        if config.restart == "on-failure":  # it has finished only with success
            return config.name in self._standing.finished
        return signal is None and status in config.success_exit_codes

    def returns(self, program: Program, config: ProgramConfig) -> tuple[str, float] | None:
        """Return to which node a program goes back that this node leads, and when; None for none at present."""
        found, term = self._failbacks.get(program.name), program.term
        if found is None or term is None or found.epoch != term.epoch or not found.node or config.failback is None:
            return None
        return found.node, found.due(config.failback)

    def given_back(
        self, programs: Iterable[tuple[Program, ProgramConfig]], now: float
    ) -> Iterator[tuple[str, ReleaseOrdered]]:
        """Yield what is to be released now, because a node that is preferred has been able to lead it for its time."""
        standing = {} if self._standing is None else self._standing.waiting
        for program, config in programs:
            term = program.term
            if config.failback is None or term is None or program.state != "leading":
                continue
            before, former = self._failbacks.get(program.name), program.former
            able = {node: tokens[program.name] for node, tokens in standing.items() if program.name in tokens}
            found = failback(before, term.epoch, former, program.policy, able, now)
            self._failbacks[program.name] = found
            if found.node and now >= found.due(config.failback):
                well_for = shown(round(now - found.since))
                remark = f"{found.node} is preferred, and has been able to lead it for {well_for}"
                yield program.name, ReleaseOrdered(found.node, KEPT_FOR, Author("failback", remark))
