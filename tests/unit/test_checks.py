"""Claims about a question to a program: what it answers costs the worker little."""

from __future__ import annotations

from highlanderd.children.checks import unverified


def test_no_server_can_choose_a_key_exchange_that_keeps_the_worker_busy() -> None:
    """The size of a finite-field Diffie-Hellman is the server's choice: 10,000 bits cost a second of the event loop."""
    assert {cipher["kea"] for cipher in unverified().get_ciphers()} == {"kx-ecdhe", "kx-any"}, "any is TLS 1.3's"
