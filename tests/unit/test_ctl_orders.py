"""Claims about which programs an order is for, where nobody can say what other nodes have or what this one had."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from highlanderd.ctl.arguments import parser
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.commands import COMMANDS
from highlanderd.errors import HighlanderError, Interrupted, NoSuchProgram, Unanswered

AWAY = "PostgreSQL does not answer: no session"
ENDING = "the daemon on a is ending, and has done with beat"


class Alone(ControlClient):
    """A daemon that has the program ``own``, cannot ask PostgreSQL, and refuses to show ``beat``."""

    def __init__(self, refusal: HighlanderError) -> None:
        super().__init__("/nowhere")
        self._refusal = refusal

    def status(self, wait: float | None = None, patience: float = 0.0) -> Answer:
        assert (wait, patience) == (None, 0.0)
        return {"node": "a", "programs": [{"name": "own", "leader": None}]}

    def ask(self, method: str, resource: str, body: Answer | None = None, patience: float = 0.0) -> Answer:
        assert (method, body, patience) == ("GET", None, 0.0), "nothing is ordered"
        raise self._refusal if resource == "/v1/programs/beat" else HighlanderError(AWAY)


def ordered(line: str, refusal: HighlanderError) -> None:
    arguments = parser().parse_args(line.split())
    COMMANDS[arguments.command](Alone(refusal), arguments)


@pytest.mark.parametrize(
    "line", ["release beat", "restart b*", "signal HUP beat own", "stop beat --on b", "stop --everywhere beat"]
)
def test_without_postgresql_a_program_of_another_node_is_not_called_unknown(line: str) -> None:
    with pytest.raises(Unanswered, match=f"this node has no program '.*asked: {AWAY}; it has own$"):
        ordered(line, NoSuchProgram("no such program"))


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (Interrupted(ENDING), ENDING),
        (NoSuchProgram("no such program"), "no program 'beat' is configured on this node; it has own"),
    ],
)
@pytest.mark.parametrize("line", ["stop beat", "start own beat"])
def test_what_this_node_has_not_is_refused_as_its_daemon_does(line: str, refusal: HighlanderError, says: str) -> None:
    with pytest.raises(type(refusal), match=says):
        ordered(line, refusal)


def test_a_glob_that_means_nothing_here_is_refused_without_asking() -> None:
    with pytest.raises(NoSuchProgram, match=r"'x\*' is configured on this node; it has own"):
        ordered("stop x*", Interrupted(ENDING))


@pytest.mark.parametrize(
    ("line", "resumed", "said"),
    [("resume a b", ["a"], "a: resumed\nb: was not drained\n"), ("resume", [], "a: was not drained\n")],
)
def test_a_node_that_was_not_drained_is_named(
    line: str, resumed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon: Any = SimpleNamespace(ask=lambda *_: {"nodes": resumed}, status=lambda: {"node": "a"})
    assert COMMANDS["resume"](daemon, parser().parse_args(line.split())) == 0
    assert capsys.readouterr().out == said
