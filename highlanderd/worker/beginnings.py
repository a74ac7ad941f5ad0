"""What a program begins with that was there under an earlier worker, and what this worker would leave to the next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from math import isfinite
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import asdict

from highlanderd.config import ProgramConfig
from highlanderd.core.events import Exited
from highlanderd.core.schedule import Schedule
from highlanderd.core.states import Backoff, Want
from highlanderd.system.linux import boottime
from highlanderd.worker.program import Program
from highlanderd.worker.records import LastExit, Pause

MOST_FAILURES: Final = 1 << 31
"""One a second would take 68 years."""

TakenUp = tuple[str, float]
"""The words of a schedule, and when this node took it up, by CLOCK_BOOTTIME."""


class Beginnings(Struct, frozen=True):
    """What there was of each program, by name."""

    stops: Mapping[str, str] = field(default_factory=dict)
    """Of those that an operator has stopped here: the reason that the status shows."""
    exits: Mapping[str, LastExit] = field(default_factory=dict)
    """How the latest child has ended on this node."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How many failures in a row it has had on this node, where there were any."""
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    """Of those that sit out after a failure: until when, and why."""
    schedules: Mapping[str, TakenUp] = field(default_factory=dict)
    """Of those that have one: what it says, and since when it is in force here. The latest of the cluster counts."""

    def facts(self) -> dict[str, object]:
        """Return it as the guardian keeps it."""
        exits = {name: [event.status, event.at, epoch] for name, (event, epoch) in self.exits.items()}
        return asdict(self) | {"exits": exits}

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Beginnings:
        """Return what can be read of such facts, which a worker of another version may have written."""
        return cls(**{name: _readable(facts.get(name), read) for name, read in _READ.items()})


def _readable(written: object, read: Callable[[object], object]) -> dict[str, Any]:
    pairs = written.items() if isinstance(written, dict) else ()
    return {name: fact for name, value in pairs if (fact := read(value)) is not None}


def _exit(written: object) -> LastExit | None:
    match written:
        case [int(status), int() | float() as at, int() | None as epoch] if _is_past(at) and 0 <= status <= 0xFFFF:
            return Exited(status, at), epoch
    return None


def _pause(written: object) -> Pause | None:
    match written:
        case [int() | float() as until, str(why)] if isfinite(until):
            return float(until), why
    return None


def _taken_up(written: object) -> TakenUp | None:
    match written:
        case [str(words), int() | float() as since] if _is_past(since):
            return words, float(since)
    return None


def _is_past(moment: float) -> bool:
    return 0 <= moment <= boottime()


_READ: Final[Mapping[str, Callable[[object], object]]] = {
    "stops": lambda why: why if isinstance(why, str) else None,
    "exits": _exit,
    "failures": lambda count: count if type(count) is int and 0 < count <= MOST_FAILURES else None,
    "pauses": _pause,
    "schedules": _taken_up,
}
"""By field: how one program's is read; None for what cannot be."""


class Inheritance:
    """What an earlier worker has left, and what programs leave that begin anew under this one."""

    def __init__(self, left: Beginnings) -> None:
        self._stops, self._exits = dict(left.stops), dict(left.exits)
        self._failures, self._pauses = dict(left.failures), dict(left.pauses)
        self._schedules = dict(left.schedules)

    def last_exit(self, name: str) -> LastExit | None:
        """Return how the latest child of a program has ended."""
        return self._exits.get(name)

    def stop(self, name: str) -> str:
        """Return the reason that is shown of a program which an operator has stopped."""
        return self._stops.get(name, "")

    def take_failures(self, name: str) -> int:
        """Return how many failures in a row a program begins with, once."""
        return self._failures.pop(name, 0)

    def take_pause(self, name: str) -> Pause:
        """Return until when a program sits out that begins now, and why, once."""
        return self._pauses.pop(name, (0.0, ""))

    def take_up(self, programs: Iterable[ProgramConfig]) -> None:
        """Note since when each schedule is in force here. One whose words have not changed was taken up before."""
        before, now = self._schedules, boottime()
        self._schedules = {}
        for config in programs:
            if config.times is not None:
                known, since = before.get(config.name, ("", now))
                self._schedules[config.name] = config.times.words, since if config.times.words == known else now

    def schedule(self, config: ProgramConfig) -> Schedule | None:
        """Return when a program is to run; None for all the time."""
        if config.times is None:
            return None
        words, since = self._schedules[config.name]
        return Schedule(config.times, words, config.catch_up, since)

    def note(self, program: Program) -> None:
        """Take in how a program's latest child has ended, and why it is stopped."""
        situation, last_exit = program.situation, program.last_exit
        if last_exit is not None:
            self._exits[program.name] = last_exit
        if situation.want is Want.STOP and program.state == "stopped" and situation.reason:
            self._stops[program.name] = situation.reason

    def left(self, programs: Iterable[Program], wanted: Collection[str], wishes: Mapping[str, Want]) -> Beginnings:
        """Return what each of these, and each that is wanted and has not begun, would begin with next time."""
        known = {*wanted}
        failures = {name: count for name, count in self._failures.items() if name in known}
        pauses = {name: pause for name, pause in self._pauses.items() if name in known}
        for program in programs:
            self.note(program)
            name, situation = program.name, program.situation
            known.add(name)
            failures[name] = situation.failures
            if isinstance(situation.state, Backoff):
                pauses[name] = situation.state.until, situation.reason
        return Beginnings(
            stops={name: why for name, why in self._stops.items() if wishes.get(name) is Want.STOP},
            exits={name: end for name, end in self._exits.items() if name in known},
            failures={name: count for name, count in failures.items() if count},
            pauses=pauses,
            schedules=dict(self._schedules),
        )
