"""The listeners of a daemon are opened side by side."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from highlanderd.errors import HighlanderError
from highlanderd.listeners.opening import Doors
from highlanderd.listeners.sockets import Closer


async def _closed() -> None:
    pass


def test_one_that_hangs_holds_up_neither_the_others_nor_readiness() -> None:
    opened = asyncio.Event()

    async def hung() -> Closer:
        await asyncio.get_running_loop().create_future()
        return _closed

    async def quick() -> Closer:
        opened.set()
        return _closed

    async def main() -> None:
        ready = asyncio.Event()
        async with AsyncExitStack() as stack:
            opening = asyncio.ensure_future(Doors().open([hung, quick], stack, ready.set))
            await asyncio.wait_for(opened.wait(), 60)
            await asyncio.wait_for(ready.wait(), 60)
            assert not opening.done()
            opening.cancel()
            await asyncio.wait([opening])

    asyncio.run(main())


def test_what_cannot_be_opened_is_named_and_hinders_no_readiness() -> None:
    async def refused() -> Closer:
        raise HighlanderError("no room")

    async def main() -> None:
        ready = asyncio.Event()
        async with AsyncExitStack() as stack:
            house = Doors()
            opening = asyncio.ensure_future(house.open([refused], stack, ready.set))
            await asyncio.wait_for(ready.wait(), 60)
            [why] = house.shut
            assert why.startswith("no room; trying again every")
            opening.cancel()
            await asyncio.wait([opening])

    asyncio.run(main())
