"""What a child needs from files and the user database is looked up while its term is asked for, and is no older."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from highlanderd.children import spawn
from highlanderd.children.child import Child
from highlanderd.children.guardian_link import GuardianLink
from highlanderd.children.messages import SpawnRequest
from highlanderd.children.spawn import Origin, Spawner
from highlanderd.config import ProgramConfig, load
from highlanderd.core.effects import Occasion, Spawn
from highlanderd.output.writer import Writer


class Requests:
    """A guardian that notes what it is asked for."""

    def __init__(self) -> None:
        self.environments: asyncio.Queue[Mapping[str, str]] = asyncio.Queue()
        self.ahead: list[int | str] = []
        """The epochs for which a keeper was forked ahead, and that one was discarded."""

    def prepare(self, request: SpawnRequest) -> None:
        self.ahead.append(request.epoch)

    def discard(self, _lock_id: int) -> None:
        self.ahead.append("discarded")

    def spawn(self, _child: Child, request: SpawnRequest) -> None:
        self.environments.put_nowait(request.env)


class World:
    """One program, whose environment file a test changes."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.guardian, self.writer = directory, Requests(), Writer(2)
        self.written = directory / "environment"
        self.written.write_text("SAYS=first\n")
        nothing = lambda *_: None  # noqa: E731
        guardian = cast("GuardianLink", self.guardian)
        origin = Origin(guardian, self.writer, "a", "highlander", directory / "socket", {}, nothing, nothing, nothing)
        self.spawner = Spawner(origin, self.configured("true"))
        self.epoch = 0

    def configured(self, command: str) -> ProgramConfig:
        file = self.directory / "highlander.toml"
        state = f'node = "a"\nrun_dir = "{self.directory}"\nstate_dir = "{self.directory}"'
        program = f'[program.beat]\ncommand = "{command}"\nenvironment_file = ["{self.written}"]'
        file.write_text(f'[daemon]\n{state}\n[postgres]\ndsn = "postgresql://db/x"\n{program}\n')
        return load(file, {}).configuration.programs["beat"]

    async def starts(self) -> str:
        """Start a child; return what its environment says."""
        self.epoch += 1
        self.spawner(Spawn(self.epoch, 1e9, 1e9), b"", lambda _: None)
        return (await self.guardian.environments.get())["SAYS"]

    def asks(self, epoch: int, occasion: Occasion = "takeover") -> None:
        """Prepare for the child of a term that is being asked for, or may soon be."""
        self.spawner.prepare(Spawn(epoch, 1e9, 1e9), occasion)

    async def prepares(self) -> None:
        """Prepare for a child, and wait until that is done."""
        self.asks(self.epoch + 1)
        assert self.spawner._prepared is not None
        await asyncio.wait([self.spawner._prepared])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.writer.close()


def test_what_was_prepared_is_used_once(world: World) -> None:
    async def live() -> list[str]:
        await world.prepares()
        world.written.write_text("SAYS=second\n")
        return [await world.starts(), await world.starts()]

    assert asyncio.run(live()) == ["first", "second"]


def test_what_was_prepared_long_ago_is_looked_up_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> str:
        await world.prepares()
        world.written.write_text("SAYS=second\n")
        monkeypatch.setattr(spawn, "PREPARED_FOR", 0.0)
        return await world.starts()

    assert asyncio.run(live()) == "second"


def test_what_was_prepared_for_another_configuration_is_looked_up_again(world: World) -> None:
    async def live() -> str:
        await world.prepares()
        world.written.write_text("SAYS=second\n")
        world.spawner.follow(world.configured("false"))
        return await world.starts()

    assert asyncio.run(live()) == "second"


def test_a_preparation_under_way_is_waited_for(world: World) -> None:
    async def live() -> str:
        world.asks(1)
        return await world.starts()

    assert asyncio.run(live()) == "first"


def test_a_keeper_is_forked_ahead_once_for_an_epoch_that_is_asked_for_again_and_again(world: World) -> None:
    async def live() -> None:
        for epoch in (1, 1, 2):
            world.epoch = epoch - 1
            await world.prepares()
            world.spawner.discard()

    asyncio.run(live())
    assert world.guardian.ahead == [1, "discarded", 2, "discarded"]


def test_what_a_child_was_started_from_is_not_discarded(world: World) -> None:
    async def live() -> None:
        await world.prepares()
        await world.starts()
        world.spawner.discard()

    asyncio.run(live())
    assert world.guardian.ahead == [1]


def test_no_keeper_is_forked_ahead_for_a_term_that_was_refused_before_all_was_looked_up(world: World) -> None:
    async def live() -> None:
        world.asks(1)
        world.spawner.discard()
        assert world.spawner._prepared is not None
        await asyncio.wait([world.spawner._prepared])

    asyncio.run(live())
    assert world.guardian.ahead == ["discarded"]


def test_hints_that_come_again_and_again_fork_one_keeper_and_a_takeover_another(world: World) -> None:
    async def live() -> None:
        occasions: list[Occasion] = ["hint", "hint", "hint", "takeover", "takeover"]
        for occasion in occasions:
            world.asks(1, occasion)
            assert world.spawner._prepared is not None
            await asyncio.wait([world.spawner._prepared])
            await asyncio.sleep(0)
            world.spawner.discard()

    asyncio.run(live())
    assert world.guardian.ahead == [1, "discarded", 1, "discarded"]


def test_what_was_prepared_at_a_hint_serves_the_takeover(world: World) -> None:
    async def live() -> None:
        world.asks(1, "hint")
        await world.prepares()
        await world.starts()

    asyncio.run(live())
    assert world.guardian.ahead == [1]
