"""Claims about a question to a program: what it answers costs the worker little, and any of its addresses will do."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from highlanderd.children.checks import ProbedChild, ask, unverified
from highlanderd.config.probes import TcpCheck

NOBODY = cast(ProbedChild, None)
"""Who is asked by TCP needs no child."""


class Known:
    """Knows the addresses of every host."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def addresses(self, _host: str, _within: float) -> tuple[str, ...]:
        return self._addresses


async def ask_who_listens(on: str, known: Known) -> None:
    """Ask a server on one address, which is looked up among others."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), on, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await ask(TcpCheck("web", port), known, NOBODY, 60.0)


def test_no_server_can_choose_a_key_exchange_that_keeps_the_worker_busy() -> None:
    """The size of a finite-field Diffie-Hellman is the server's choice: 10,000 bits cost a second of the event loop."""
    assert {cipher["kea"] for cipher in unverified().get_ciphers()} == {"kx-ecdhe", "kx-any"}, "any is TLS 1.3's"


def test_a_program_is_asked_at_the_first_of_its_addresses_that_accepts() -> None:
    asyncio.run(ask_who_listens("127.0.0.1", Known("127.0.0.2", "127.0.0.1")))


@pytest.mark.parametrize(("addresses", "why"), [(("127.0.0.2",), "Connect call failed"), ((), "web has no address")])
def test_a_program_that_accepts_at_no_address_has_not_answered(addresses: tuple[str, ...], why: str) -> None:
    with pytest.raises(OSError, match=why):
        asyncio.run(ask_who_listens("127.0.0.1", Known(*addresses)))
