"""Messages that processes of an earlier version have sent, to be sent again to the present ones."""

from __future__ import annotations

import ast
import os
import select
from pathlib import Path
from typing import Any

from highlanderd.guardian.channel import Channel, Message
from highlanderd.system import linux
from tests.support.processes import PATIENCE

RECORDED = Path(__file__).with_name("recorded_messages.txt")
TIMES = ("deadline", "not_after", "at", "started", "exited_at", "killed_at")
TERM = {"program": "beat", "lock_id": 7, "epoch": 1}


def _from_now(message: Message, now: float) -> Message:
    moved = {name: message[name] + now for name in TIMES if isinstance(message.get(name), float)}
    if "state" in message:
        moved["state"] = _from_now(message["state"], now)
    return {**message, **moved}


def recorded(label: str) -> tuple[Message, int]:
    """Return a recorded message, as if it was sent now, and how many descriptors it came with."""
    for line in RECORDED.read_text().splitlines():
        if line.startswith(f"{label} | "):
            _, count, message = line.split(" | ", 2)
            return _from_now(ast.literal_eval(message), linux.boottime()), int(count)
    raise AssertionError(label)


def send(channel: Channel, label: str, *fds: int, **other: Any) -> Message:
    """Send a recorded message, with descriptors that are given away; ``other`` is what differs in this run."""
    message, count = recorded(label)
    message |= other
    assert len(fds) == count
    assert channel.send(message, fds)
    for fd in fds:
        os.close(fd)
    return message


def receive(channel: Channel, name: str, **wanted: Any) -> tuple[Message, list[int]]:
    """Wait for a message and drop those before it."""
    while select.select([channel], [], [], PATIENCE)[0]:
        received = channel.receive()
        assert received is not None
        message, fds = received
        if message["is"] == name and all(message[key] == value for key, value in wanted.items()):
            return message, fds
    raise AssertionError(f"never came: {name} {wanted}")
