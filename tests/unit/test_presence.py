"""Claims about what a daemon writes of itself into the ledger, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from highlanderd.config import ProgramConfig
from highlanderd.core.cluster import CandidatePresence, NodePresence
from highlanderd.core.lease import Lease
from highlanderd.postgres.presence import Presence
from highlanderd.postgres.replies import Reply, ServerMessage
from highlanderd.structs import replace
from highlanderd.worker.presence import WorkerPresence
from tests.support.driven_loop import DrivenLoop
from tests.support.wait import until

BEAT = CandidatePresence("beat", 7, "draining", False, "released", False, "2026-01-02T03:04:05Z", {})


class Written:
    """Stands in for the listening session, and changes what is true while the first candidates are written."""

    backend, shares = 1, True

    def __init__(self) -> None:
        self.beat, self.change = BEAT, asyncio.Event()
        self.candidates: list[str] = []

    def present(self) -> NodePresence:
        return NodePresence("a", "i", "1", None, "2026-01-02T03:04:05Z", (self.beat,), ("beat",))

    async def inquire(self, name: str, _sql: str, *values: Any) -> Reply:
        if name == "candidates":
            self.candidates.append(values[1])
            if len(self.candidates) == 1:
                self.beat = replace(BEAT, state="waiting", able=True)
                changed, self.change = self.change, asyncio.Event()
                changed.set()
        return Reply()


def test_what_changes_while_it_is_written_is_written_next() -> None:
    async def main() -> None:
        session = Written()
        server: Any = SimpleNamespace(lease=Lease(600.0), notes=SimpleNamespace(warn=lambda *_: None))
        listener: Any = session
        presence = Presence(server, listener, present=session.present, change=lambda: session.change)
        writing = asyncio.create_task(presence.run())
        await until(lambda: len(session.candidates) == 2)
        writing.cancel()
        assert '"able": true' in session.candidates[1]

    asyncio.run(main())


def test_while_leases_run_out_elsewhere_a_new_session_writes_nothing() -> None:
    async def main() -> None:
        session, pressed = Written(), iter([True, True])
        server: Any = SimpleNamespace(lease=Lease(600.0), notes=SimpleNamespace(warn=lambda *_: None))
        asked: list[bool] = []

        def hurry() -> bool:
            asked.append(next(pressed, False))
            assert not session.candidates or not asked[-1]
            return asked[-1]

        listener: Any = session
        presence = Presence(server, listener, present=session.present, change=lambda: session.change, pressed=hurry)
        writing = asyncio.create_task(presence.run())
        await until(lambda: bool(session.candidates))
        writing.cancel()
        assert asked[:3] == [True, True, False]

    asyncio.run(main())


def test_a_node_that_never_comes_back_takes_back_what_its_own_instance_has_written() -> None:
    async def main() -> None:
        asked = []

        class Session(Written):
            async def inquire(self, name: str, _sql: str, *values: Any) -> Reply:
                asked.append((name, values))
                return Reply()

        session = Session()
        listener: Any = session
        server: Any = SimpleNamespace()
        await Presence(server, listener, present=session.present, change=lambda: session.change).withdraw()
        assert asked == [("withdrawn", ("a", "i"))]

    asyncio.run(main())


class Refused:
    """Stands in for the listening session of a server that refuses some statements; ``asked`` is what was asked."""

    shares = True

    def __init__(self, *refused: str) -> None:
        self.backend, self.refused, self.asked = 1, refused, list[str]()

    async def inquire(self, name: str, _sql: str, *_values: Any) -> Reply:
        self.asked.append(name)
        return Reply(error=ServerMessage("42501", "permission denied", "")) if name in self.refused else Reply()


def test_a_presence_that_is_refused_is_written_again_a_lease_later_and_not_at_once() -> None:
    async def main() -> None:
        session = Refused("present")
        node = NodePresence("a", "i", "1", None, "2026-01-02T03:04:05Z", (BEAT,), ("beat",))
        writing = asyncio.create_task(written_by(session, node).run())
        await asyncio.sleep(5.0)
        assert session.asked == ["present"]
        writing.cancel()

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(main())


def test_what_a_new_session_refuses_to_write_is_written_on_it_later() -> None:
    async def main() -> None:
        session = Refused()
        node = NodePresence("a", "i", "1", None, "2026-01-02T03:04:05Z", (BEAT,), ("beat",))
        change = asyncio.Event()
        writing = asyncio.create_task(written_by(session, node, lambda: change).run())
        await asyncio.sleep(1.0)
        session.backend, session.refused = 2, ("candidates",)
        change.set()
        await asyncio.sleep(1.5)
        session.refused, session.asked = (), []
        await asyncio.sleep(1.5)
        assert "candidates" in session.asked
        writing.cancel()

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(main())


def written_by(session: Any, node: NodePresence, change: Callable[[], asyncio.Event] = asyncio.Event) -> Presence:
    server: Any = SimpleNamespace(lease=Lease(600.0), notes=SimpleNamespace(warn=lambda *_: None))
    return Presence(server, session, present=lambda: node, change=change)


def test_what_an_operator_waits_for_is_looked_for_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("highlanderd.worker.presence.LOOK_WITHIN", 60.0)  # a busy machine may need longer

    async def main() -> None:
        command = tmp_path / "beat"
        command.write_text("#!/bin/sh\n")
        command.chmod(0o755)
        config = ProgramConfig(name="beat", command=(str(command),))
        beat: Any = SimpleNamespace(
            program=SimpleNamespace(name="beat", state="leading"), spawner=SimpleNamespace(config=config)
        )
        fleet: Any = SimpleNamespace(wanted={"beat": config}, members={"beat": beat})
        presence = WorkerPresence("a", "i", None, fleet, {})
        assert await presence.hindrance_now(beat) == ""
        command.unlink()
        assert presence.hindrance(beat) == ""  # nobody has looked since
        assert f"there is no file {command}" in await presence.hindrance_now(beat)

    asyncio.run(main())
