"""Whatever is sent to a child's socket for sd_notify(3), the keeper understands what counts, and bears the rest."""

from __future__ import annotations

import os
import socket
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from highlanderd.guardian import messages, notify, protocol, shapes

SPEC = {"program": "beat", "lock_id": 7, "epoch": 1, "deadline": 60.0, "memo": b""}
NAMES = st.sampled_from(["READY", "STATUS", "WATCHDOG", "WATCHDOG_USEC", "EXTEND_TIMEOUT_USEC", "MAINPID", "", "ready"])
VALUES = st.sampled_from(["1", "0", "trigger", "-1", "1e9", "9" * 30, "\u0661", "\x1b[2J", "\0"]) | st.text(
    max_size=300
)
LINES = st.tuples(NAMES, st.sampled_from(["=", "", "=="]), VALUES).map("".join)
DATAGRAMS = st.binary(max_size=6000) | st.lists(LINES, max_size=6).map(lambda lines: "\n".join(lines).encode())


@given(DATAGRAMS)
def test_what_is_understood_is_printable_and_short(data: bytes) -> None:
    for name, value in notify.parse(data).items():
        assert name in ("READY", "STATUS", "WATCHDOG", "WATCHDOG_USEC", "EXTEND_TIMEOUT_USEC")
        assert len(value) <= notify.LONGEST_STATUS
        assert value.isprintable()
        if name.endswith("USEC"):
            assert 0 <= int(value) < 10**15


@settings(max_examples=60)
@given(st.lists(st.tuples(DATAGRAMS, st.integers(0, 3)), max_size=9))
def test_a_state_that_was_spoken_into_is_one_that_a_worker_takes(said: list[tuple[bytes, int]]) -> None:
    heard, state = notify.NotifySocket(), {**messages.state(SPEC), "fds": []}
    heard.watch(30.0)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - nothing else is as exact
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.connect(b"\0" + heard.address[1:])
        for data, passed in said:
            speaker.sendmsg([data], [_descriptors(passed)] if passed else [])
            assert heard.hear(state) in (True, False)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert shapes.check(protocol.WORKER, state)
    assert state["ready"] is None, "this process is not below itself"
    heard.close()


def _descriptors(count: int) -> tuple[int, int, bytes]:
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join((0).to_bytes(4, "little") for _ in range(count))


@given(st.lists(DATAGRAMS, max_size=9))
def test_words_of_the_tree_never_break_the_state(said: list[bytes]) -> None:
    heard, state = notify.NotifySocket(), {**messages.state(SPEC), "fds": []}
    heard.watch(30.0)
    for data in said:
        words: dict[str, Any] = notify.parse(data)
        heard._take_in(words, state)
        assert shapes.check(protocol.WORKER, state)
        assert heard.due > 0
    heard.close()
