"""One program's trouble ends at that program."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from highlanderd.children.guardian_link import GuardianLink
from highlanderd.children.spawn import Origin
from highlanderd.config import ProgramConfig
from highlanderd.core.events import Unlocked
from highlanderd.output.streams import Writer
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.server import Server
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.interfaces import Recorder
from tests.support.session import pool_of, until


class _Nothing:
    """Counts nothing, and holds nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: False


def _fleet(alarms: list[str]) -> Fleet:
    ledger = Ledger("highlander", "highlander", 10.0)
    nothing = _Nothing()
    origin = Origin(
        guardian=cast("GuardianLink", nothing),
        writer=cast("Writer", nothing),
        node="a",
        namespace="highlander",
        socket=Path("/nowhere"),
        environ={},
        count=lambda *_: None,
        killed=lambda *_: None,
    )
    return Fleet(
        pool_of(Server("host=/nowhere", ledger, node="a", fresh=None), ledger),
        origin,
        instance="6f3f1b0e-5d4c-4c1b-8f1a-2f6f3b0c9d11",
        wishes={},
        on_connection_loss="hold",
        recorder=cast("Recorder", nothing),
        on_change=lambda: None,
        on_alarm=alarms.append,
    )


def test_a_program_whose_task_fails_sits_out_with_its_reason_and_its_neighbours_go_on() -> None:
    alarms: list[str] = []

    async def scenario() -> None:
        fleet = _fleet(alarms)
        fleet.want({name: ProgramConfig(name=name, command=("true",)) for name in ("beat", "bot")})
        running = asyncio.create_task(fleet.run())
        await until(lambda: len(fleet.members) == 2)
        neighbour = fleet.members["bot"]
        fleet.members["beat"].program.post(Unlocked())  # which no program that waits can hear of
        await until(lambda: alarms)
        assert fleet.members["beat"].program.state == "stopped"
        assert "its task has failed (ImpossibleEvent" in fleet.members["beat"].program.situation.reason
        assert fleet.members["bot"] is neighbour
        assert neighbour.program.state == "waiting"
        assert neighbour.task is not None
        assert not neighbour.task.done()
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())
    assert len(alarms) == 1
