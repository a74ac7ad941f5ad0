"""Hints of the listener's session: `highlanderd/postgres/listener.py`."""

from __future__ import annotations

import asyncio

from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.server import Server


def test_who_is_woken_by_a_loss_may_ask_for_other_hints() -> None:
    async def main() -> None:
        ledger, woken = Ledger("highlander", "highlander", 10.0), list[str]()
        listener = Listener(Server("host=/nowhere", ledger, node="a", fresh=None), ledger)

        def wake() -> None:
            woken.append("first")
            listener.hint("second", lambda: woken.append("second"))

        listener.hint("first", wake)
        listener.lost("the network")
        assert woken == ["first"]
        listener.notified("second")
        assert woken == ["first", "second"]

    asyncio.run(main())
