"""Claims about the command ``renew``: it waits for the next worker for no longer than it was told to."""

from __future__ import annotations

import pytest

from highlanderd.ctl.arguments import parser
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.exchange import PATIENCE
from highlanderd.ctl.renewal import renew
from highlanderd.errors import DaemonUnreachable, TimedOut


class WithoutWorker(ControlClient):
    """A daemon whose worker has given way, and whose next one does not answer."""

    lives = True

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.waited: list[float] = []

    def ask(self, *_: object, **__: object) -> Answer:
        return {"node": "a", "worker": {"pid": 4711, "version": "1"}, "programs": {}, "warnings": []}

    def status(self, _wait: float | None = None, patience: float = 0.0) -> Answer:
        self.waited.append(PATIENCE + patience)
        raise DaemonUnreachable("no worker answers")


def test_a_renewal_gives_up_in_time_although_a_question_waits_longer_for_a_worker() -> None:
    daemon = WithoutWorker()
    with pytest.raises(TimedOut, match=r"not over after 300ms: no new worker answers"):
        renew(daemon, parser().parse_args(["renew", "--timeout", "0.3s"]))
    assert 0 < max(daemon.waited) <= 0.3
