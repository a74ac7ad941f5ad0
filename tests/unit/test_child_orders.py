"""Which orders for a child reach its keeper."""

from __future__ import annotations

import asyncio

from highlanderd.children.child import Child
from highlanderd.guardian import messages
from highlanderd.guardian.channel import Channel, channel_pair
from tests.unit.test_child_pipes import SPEC, NoGuardian


async def next_order(keeper: Channel) -> str:
    """Wait for the next message to a keeper, and return its name."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(keeper.fileno(), arrived.set)
    await arrived.wait()
    loop.remove_reader(keeper.fileno())
    received = keeper.receive()
    assert received is not None
    return str(received[0]["is"])


def test_a_keeper_whose_tree_is_empty_is_ordered_nothing_but_to_leave() -> None:
    async def main() -> list[str]:
        child = Child(NoGuardian(), "beat", 1, 1)
        child.listen(lambda _: None)
        keeper, ours = channel_pair()
        lives = {**messages.state(SPEC), "pid": 7, "started": 1.0}
        child.attached(1, ours)
        keeper.post(messages.state_with_pipes(lives, []))
        await child.news()
        child.signal(15, "tree")
        orders = [await next_order(keeper)]
        keeper.post(messages.state_with_pipes({**lives, "status": 15, "exited_at": 2.0, "empty": True}, []))
        await child.news()
        child.signal(15, "tree")
        child.set_deadline(20.0, b"")
        child.kill()
        orders.append(await next_order(keeper))
        keeper.close()
        return orders

    assert asyncio.run(main()) == ["signal", "leave"]
