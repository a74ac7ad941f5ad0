"""Commands that answer by their exit code: ``is-leading`` and ``wait``."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from highlanderd.ctl.choice import chosen, exact, one_named
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.direct import Direct, asked
from highlanderd.ctl.exchange import PATIENCE, segment
from highlanderd.ctl.printing import give
from highlanderd.ctl.tables import finished_somewhere, plain
from highlanderd.durations import shown
from highlanderd.errors import (
    DONE,
    NOT_LEADING,
    BadRequest,
    ConfigurationError,
    HighlanderError,
    NoSuchProgram,
    NotPermitted,
    TimedOut,
)

Found = TypeVar("Found")
LOOK_AGAIN: Final = 1.0
"""Seconds between two looks at a program that no change announced: other nodes' terms are theirs."""
AWAY_PAUSE: Final = 0.2
"""Seconds before a daemon that did not answer is asked again."""
HOPELESS: Final = (NoSuchProgram, NotPermitted, BadRequest, ConfigurationError)
"""What waiting does not cure."""


def is_leading(daemon: ControlClient, arguments: Namespace) -> int:
    answer = daemon.status()
    program = _one(answer, arguments.name)
    leads = program["state"] == "leading"
    if not arguments.quiet:
        give(arguments, program, lambda: _said(program, _where(answer, program)))
    return DONE if leads else NOT_LEADING


def _one(answer: Answer, name: str) -> Answer:
    """Return the program of that very name. Raises NoSuchProgram."""
    for program in answer["programs"]:
        if program["name"] == name:
            return dict(program)
    refusal = NoSuchProgram.anywhere if answer["node"] is None else NoSuchProgram.among
    raise refusal(name, [program["name"] for program in answer["programs"]])


def _where(answer: Answer, program: Answer) -> str:
    if answer["node"] is None:
        leader = program["leader"]
        return f"led by {plain(leader)}, epoch {program['epoch']}" if leader else "no node leads it"
    if program["state"] == "leading":
        return f"led by {plain(answer['node'])}, which is this node, epoch {program['epoch']}"
    none = "no node leads it" if answer["postgres"]["connected"] else "and PostgreSQL does not say who leads it"
    where = f"led by {plain(program['leader'])}" if program["leader"] else none
    return f"{program['state']} on this node, {where}"


# -------------------------------------------------------------------------------------------------------------- wait


class _View(Protocol):
    """Where programs are looked at."""

    def ask(self, method: str, resource: str) -> Answer:
        """Return the answer to another question about them. Raises HighlanderError."""

    def seen(self, pause: float, left: float) -> Answer:
        """Return the programs after the next news, ``pause`` seconds later at most. Raises HighlanderError."""

    def wider(self) -> _View | None:
        """Return the view that also has programs which are not here; None when there is no wider one."""

    def tell(self, trouble: str) -> None:
        """Say why there is no answer, if that will not change by itself."""


class _DaemonView:
    """As this node's daemon sees them."""

    def __init__(self, daemon: ControlClient) -> None:
        self.ask, self._status = daemon.ask, daemon.status

    def seen(self, pause: float, left: float) -> Answer:
        return self._status(pause, _patience(left))

    def wider(self) -> _View:
        return _LedgerView(self.ask)

    def tell(self, trouble: str) -> None:
        """Say nothing: a daemon that is away comes back."""


class _LedgerView:
    """As the cluster shows them: of no node, and without news."""

    def __init__(self, ask: Callable[[str, str], Answer]) -> None:
        self.ask, self._told = ask, ""

    def seen(self, pause: float, left: float) -> Answer:  # noqa: ARG002 - PostgreSQL takes the time that it takes
        time.sleep(pause)
        found = self.ask("GET", "/v1/cluster")["programs"]
        programs = [{**one, "state": "leading" if one["leader"] else "waiting"} for one in found]
        return {"node": None, "programs": programs}

    def wider(self) -> None:
        return None

    def tell(self, trouble: str) -> None:
        """Say at once, and once, why PostgreSQL itself gives no answer: a refusal will not change by itself."""
        if trouble != self._told:
            self._told = trouble
            print(f"highlanderctl: {trouble}; it is asked again until --timeout is over", file=sys.stderr)


def _view(daemon: ControlClient, arguments: Namespace) -> _View:
    source = asked(daemon, arguments, arguments.timeout)
    if not isinstance(source, Direct):
        return _DaemonView(daemon)
    if arguments.state == "stopped":
        raise BadRequest("--for stopped is about this node, whose daemon knows it; leave --dsn and --config out")
    return _LedgerView(source.ask)


def wait(daemon: ControlClient, arguments: Namespace) -> int:
    """Return when each program has been as wanted. A daemon or PostgreSQL that is away meanwhile is waited for, too."""
    waiting = _Waiting(_view(daemon, arguments), arguments)
    found = [(name, *waiting.until_reached(name)) for name in waiting.names(arguments.names)]
    programs = [program for _, program, _ in found]
    alone = one_named(arguments.names)
    lines = [line for _, program, sentence in found for line in _said(program, sentence)]
    give(arguments, programs[0] if alone else {"programs": programs}, lambda: lines)
    return DONE


class _Waiting:
    """What programs are waited for to become, and until when: one time for all of them."""

    def __init__(self, view: _View, arguments: Namespace) -> None:
        self._view, self._state, self._patience = view, arguments.state, arguments.timeout
        self._end = time.monotonic() + self._patience

    def names(self, names: Sequence[str]) -> list[str]:
        """Return the names of the programs that these names and globs choose; only a glob needs a look for that."""
        if len(exact(names)) == len(names):
            return list(names)
        choose = partial(chosen, names)
        found = self._until(", ".join(names), lambda answer: (choose(answer["programs"]), "there is none"))
        return [program["name"] for program in found]

    def until_reached(self, name: str) -> tuple[Answer, str]:
        """Return the program once it is as wanted, and the sentence about that."""

        def look(answer: Answer) -> tuple[tuple[Answer, str] | None, str]:
            program = self._one(answer, name)
            sentence = _SENTENCES[self._state](self._view, answer, program)
            return ((program, sentence) if sentence else None), _where(answer, program)

        try:
            return self._until(name, look)
        except NoSuchProgram:  # of this node; others may have it
            wider = self._view.wider()
            if self._state == "stopped" or wider is None:
                raise
            return self._until(name, look, wider)

    def _one(self, answer: Answer, name: str) -> Answer:
        """Return a program. One that has finished may be in the history alone: a run's node goes with the run."""
        try:
            return _one(answer, name)
        except NoSuchProgram:
            if answer["node"] is not None or self._state != "finished":
                raise
            return {"name": name, "state": "waiting", "leader": None, "epoch": None, "ready": False}

    def _until(self, what: str, look: Callable[[Answer], tuple[Found | None, str]], view: _View | None = None) -> Found:
        """Return what ``look`` finds, again and again; it also says what it sees now."""
        pause = 0.0
        while True:
            left = max(0.0, self._end - time.monotonic())
            try:
                found, now = look((view or self._view).seen(pause, left))
                if found:
                    return found
            except HOPELESS:
                raise
            except HighlanderError as error:
                now = str(error)
                self._view.tell(now)
                time.sleep(min(AWAY_PAUSE, left))
            left = max(0.0, self._end - time.monotonic()) if left else 0.0
            if not left:
                raise TimedOut(f"{what} is not {self._state} after {shown(self._patience)}: {now}")
            pause = min(LOOK_AGAIN, left)


def _said(program: Answer, sentence: str) -> list[str]:
    return [f"{plain(program['name'])}: {sentence}"]


def _patience(left: float) -> float:
    """Return what to add to the usual patience, so that a daemon that is frozen costs no more than ``left`` seconds."""
    return max(LOOK_AGAIN, min(PATIENCE, left)) - PATIENCE + LOOK_AGAIN


def _leading(view: _View, answer: Answer, program: Answer) -> str:  # noqa: ARG001 - one shape for all
    elsewhere = program["leader"] not in (None, answer["node"])
    return _where(answer, program) if program["state"] == "leading" or elsewhere else ""


def _ready(view: _View, answer: Answer, program: Answer) -> str:
    ready = bool(program["ready"])
    if program["state"] != "leading":
        if program["leader"] is None:
            return ""
        known = view.ask("GET", "/v1/cluster")["programs"]
        there = next((one for one in known if one["name"] == program["name"]), None)
        ready = there is not None and there["leader"] == program["leader"] and there["ready"]
    return f"ready, {_where(answer, program)}" if ready else ""


def _stopped(view: _View, answer: Answer, program: Answer) -> str:  # noqa: ARG001 - one shape for all
    return _where(answer, program) if program["state"] == "stopped" else ""


def _finished(view: _View, answer: Answer, program: Answer) -> str:  # noqa: ARG001 - one shape for all
    if program["leader"] is not None:
        return ""
    terms = view.ask("GET", f"/v1/history/{segment(program['name'])}?limit=1")["terms"]
    if not terms or terms[-1]["to"] is None or terms[-1]["cause"] != "finished":
        return ""
    return finished_somewhere(terms[-1])


_SENTENCES: Final[dict[str, Callable[[_View, Answer, Answer], str]]] = {
    "leading": _leading,
    "ready": _ready,
    "stopped": _stopped,
    "finished": _finished,
}
"""By each outcome: what returns the sentence about it, empty before it has come about."""
