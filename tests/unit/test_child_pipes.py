"""The read ends of a child's output reach who reads them, however soon the child ends."""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractContextManager, nullcontext

from highlanderd.children.child import Child
from highlanderd.children.messages import ChildEvent, SpawnRequest
from highlanderd.core.events import Emptied
from highlanderd.guardian import messages
from highlanderd.guardian.channel import channel_pair

SPEC = {"program": "beat", "lock_id": 1, "epoch": 1, "deadline": 10.0, "memo": b""}


class NoGuardian:
    """A guardian of which nothing is wanted."""

    absence = ""

    def spawn(self, child: Child, request: SpawnRequest) -> None: ...

    def kill_keeper(self, keeper: int, why: str) -> None: ...

    def forget(self, child: Child) -> None: ...

    def attention(self, program: str) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()


def test_the_output_of_a_child_that_has_ended_before_its_first_report_is_handed_over() -> None:
    async def main() -> dict[str, int]:
        child, over, taken = Child(NoGuardian(), "beat", 1, 1), asyncio.Event(), dict[str, int]()

        def post(event: ChildEvent) -> None:
            if isinstance(event, Emptied):
                over.set()

        child.listen(post, lambda: taken.update(child.pipes()))
        await asyncio.sleep(0)
        keeper, ours = channel_pair()
        read, write = os.pipe()
        ended = {**messages.state(SPEC), "pid": 7, "started": 1.0, "status": 0, "exited_at": 2.0, "empty": True}
        keeper.post(messages.state_with_pipes(ended, ["stdout"]), [read])
        child.attached(1, ours)
        await over.wait()
        os.write(write, b"out\n")
        os.close(write)
        keeper.close()
        return taken

    taken = asyncio.run(main())
    try:
        assert os.read(taken["stdout"], 10) == b"out\n"
    finally:
        os.close(taken["stdout"])
