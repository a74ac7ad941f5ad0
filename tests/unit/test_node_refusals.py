"""What a node answers to an order on a child that it does not have."""

from __future__ import annotations

import asyncio

import pytest

from highlanderd.errors import HighlanderError, Interrupted, NoSuchProgram, NotLeading
from highlanderd.listeners.carrying import addressee
from highlanderd.worker.node import not_leading
from tests.support.memory_node import MemoryNode, program

CURE = "'highlanderctl start beat' starts it at once"


def test_a_restart_of_a_program_in_backoff_names_the_order_that_starts_it() -> None:
    failed = program("beat", "backoff", reason="exited with status 1", leader=None)
    assert not_leading(failed, "a", CURE) == (
        f'"beat" is in backoff on a (exited with status 1); nobody leads it at the moment; {CURE}'
    )


def test_the_order_is_not_named_where_it_would_not_help() -> None:
    assert CURE not in not_leading(program("beat", "backoff", leader="b"), "a", CURE)
    assert CURE not in not_leading(program("beat", "stopped", leader=None), "a", CURE)


def test_a_node_that_cannot_ask_postgresql_does_not_say_that_nobody_leads() -> None:
    cut_off = program("beat", leader=None, connected=False)
    assert not_leading(cut_off, "a") == '"beat" is waiting on a; PostgreSQL does not say who leads it'


@pytest.mark.parametrize(
    ("refusal", "answer", "says"),
    [
        (Interrupted("the daemon on web-1 is ending, and has done with beat"), NotLeading, "nobody leads"),
        (NoSuchProgram("web-1 has no program 'beat'"), NoSuchProgram, "no node has"),
    ],
)
def test_a_program_that_an_ending_node_has_done_with_is_not_called_unknown(
    refusal: HighlanderError, answer: type[HighlanderError], says: str
) -> None:
    node = MemoryNode()
    node.trouble = refusal
    with pytest.raises(answer, match=says):
        asyncio.run(addressee(node, "restart", "beat", {}))
