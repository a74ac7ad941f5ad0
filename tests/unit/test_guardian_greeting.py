"""What a new worker makes of the keepers that the guardian names to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Set

import pytest

from highlanderd.children import guardian_link
from highlanderd.children.guardian_link import Greeting, GuardianLink, all_done
from highlanderd.guardian import messages
from highlanderd.guardian.channel import Channel, Message, channel_pair
from tests.unit.test_protocol import STATE


class _Ear:
    """Hears signals, before which the guardian has sent other messages, and its end."""

    def __init__(self) -> None:
        self.signals: asyncio.Queue[str] = asyncio.Queue()
        self.lost = asyncio.Event()

    def signalled(self, name: str) -> None:
        self.signals.put_nowait(name)

    def guardian_lost(self) -> None:
        self.lost.set()


class _Guardian:
    """A guardian that the test plays, with keepers that it plays, too."""

    def __init__(self) -> None:
        self.channel, workers = channel_pair()
        self.link, self.ear = GuardianLink(workers), _Ear()
        self.link.listen(self.ear)
        self.channel.post(messages.hello("i", draining=False, memo=False, signals=[], version="1", quarantined={}))
        self._keepers: list[Channel] = []

    @staticmethod
    def _term(number: int) -> Message:
        return {"program": f"p{number}", "lock_id": number, "epoch": 1}

    def name(self, number: int) -> None:
        """Name a term, as the guardian does before it connects any keeper."""
        self.channel.post(messages.term(number, self._term(number), STATE))

    def connect(self, number: int) -> Channel:
        """Connect a keeper with the worker, and return its end."""
        keeper, workers = channel_pair()
        self._keepers.append(keeper)
        self.channel.post(messages.keeper(number, self._term(number)), [workers.detach()])
        return keeper

    async def read(self) -> None:
        """Wait until the worker has read what was sent."""
        self.channel.post(messages.signalled("USR2"))
        await self.ear.signals.get()

    def heard(self) -> Iterator[str]:
        """List the names of what the worker has sent."""
        while (received := self.channel.receive()) is not None:
            for fd in received[1]:
                os.close(fd)
            yield received[0]["is"]

    async def end(self, greeting: Greeting) -> None:
        """End, with all keepers."""
        for channel in (self.channel, *self._keepers):
            channel.close()
        await self.ear.lost.wait()
        while any(found.child.reachable for found in greeting.found):  # noqa: ASYNC110 - each notices it in a turn
            await asyncio.sleep(0)


def test_a_keeper_that_is_connected_while_others_are_waited_for_is_left_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guardian connects the last of many keepers only once the worker has read of the others."""

    async def greet() -> tuple[list[str], list[str]]:
        guardian = _Guardian()

        async def connect_meanwhile(awaited: Set[asyncio.Future[None]], within: float, rounds: int) -> None:
            guardian.connect(2)
            await guardian.read()
            first.post(messages.state_with_pipes(STATE, []))
            await all_done(awaited, within, rounds)

        monkeypatch.setattr(guardian_link, "all_done", connect_meanwhile)
        guardian.name(1)
        guardian.name(2)
        first = guardian.connect(1)
        guardian.channel.post(messages.listed())
        greeting = await guardian.link.greeted()
        heard = list(guardian.heard())
        await guardian.end(greeting)
        return [found.child.program for found in greeting.found], heard

    found, heard = asyncio.run(greet())
    assert found == ["p1", "p2"]
    assert "kill" not in heard
