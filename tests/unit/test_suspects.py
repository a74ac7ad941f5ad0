"""A program that workers die of is kept away from the next one; a worker that is killed from outside accuses nobody."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from highlanderd.children.attention import Attention
from highlanderd.guardian.suspects import LASTED, WITHIN, Suspects
from highlanderd.system.linux import boottime


@pytest.fixture
def attention() -> Iterator[Attention]:
    attention = Attention()
    yield attention
    os.close(attention.fd)


@pytest.fixture
def suspects(attention: Attention) -> Suspects:
    suspects = Suspects()
    suspects.attend(os.dup(attention.fd))
    return suspects


def test_two_crashes_at_one_program_quarantine_it_and_a_start_lifts_that(
    attention: Attention, suspects: Suspects
) -> None:
    for quarantined in ({}, {"beat": "signal 11"}):
        with attention.on("beat"):
            assert suspects.worker_died(signal.SIGSEGV, boottime(), stopped=False) == "beat"
        assert suspects.quarantined == quarantined
    suspects.lift("beat")
    with attention.on("beat"):
        suspects.worker_died(signal.SIGSEGV, boottime(), stopped=False)
    assert suspects.quarantined == {}


def test_crashes_at_two_programs_or_long_apart_accuse_neither(attention: Attention, suspects: Suspects) -> None:
    now = boottime()
    for name, at in (("beat", now), ("bot", now), ("beat", now + 2 * WITHIN)):
        with attention.on(name):
            suspects.worker_died(signal.SIGSEGV, at, stopped=False)
    assert suspects.quarantined == {}


def test_sigkill_counts_only_when_the_turn_had_lasted(attention: Attention, suspects: Suspects) -> None:
    before = boottime()
    with attention.on("beat"):
        assert suspects.worker_died(signal.SIGKILL, before, stopped=False) is None
    for stopped, accused in ((True, None), (False, "beat")):
        with attention.on("beat"):
            assert suspects.worker_died(signal.SIGKILL, boottime() + 2 * LASTED, stopped=stopped) == accused


def test_a_worker_that_dies_between_turns_accuses_nobody(attention: Attention, suspects: Suspects) -> None:
    with attention.on("beat"), attention.on("bot"):
        pass
    assert suspects.worker_died(signal.SIGSEGV, boottime() + 60, stopped=False) is None


def test_a_turn_within_a_turn_gives_the_outer_one_back(attention: Attention, suspects: Suspects) -> None:
    with attention.on("beat"):
        with pytest.raises(LookupError), attention.on("bot"):
            raise LookupError
        assert suspects.worker_died(signal.SIGSEGV, boottime(), stopped=False) == "beat"


def test_memory_that_cannot_be_emptied_is_forgotten_and_the_guardian_lives(attention: Attention) -> None:
    suspects = Suspects()
    suspects.attend(os.open(f"/proc/self/fd/{attention.fd}", os.O_RDONLY))
    with attention.on("beat"):
        assert suspects.worker_died(signal.SIGSEGV, boottime(), stopped=False) == "beat"
        assert suspects.worker_died(signal.SIGSEGV, boottime(), stopped=False) is None
