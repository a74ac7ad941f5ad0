"""Claims about waiting for a program: what is said of PostgreSQL meanwhile."""

from __future__ import annotations

import pytest

from highlanderd.ctl import predicates
from highlanderd.ctl.arguments import parser
from highlanderd.ctl.client import Answer
from highlanderd.errors import HighlanderError

REFUSED = 'PostgreSQL refuses the connection: role "x" does not exist'


def test_why_postgresql_gives_no_answer_is_said_at_once_and_once_while_it_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [REFUSED, REFUSED, "PostgreSQL does not answer: no session"]

    def ask(_method: str, _resource: str) -> Answer:
        if answers:
            raise HighlanderError(answers.pop(0))
        return {"programs": [{"name": "beat", "leader": "a", "epoch": 3, "ready": True}]}

    monkeypatch.setattr(predicates, "AWAY_PAUSE", 0.0)
    arguments = parser().parse_args(["wait", "beat", "--for", "leading"])
    waiting = predicates._Waiting(predicates._LedgerView(ask), arguments)
    assert waiting.until_reached("beat")[1] == "led by a, epoch 3"
    assert capsys.readouterr().err.splitlines() == [
        f"highlanderctl: {REFUSED}; it is asked again until --timeout is over",
        "highlanderctl: PostgreSQL does not answer: no session; it is asked again until --timeout is over",
    ]
