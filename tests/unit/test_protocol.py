"""The table of messages is whole: each row has its constructor and its handler, and no message is without a row."""

from __future__ import annotations

import inspect
import marshal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from highlanderd.children import guardian_link
from highlanderd.children.messages import SpawnRequest
from highlanderd.guardian import forked, guardian, keeper, messages, protocol, shapes
from highlanderd.guardian.channel import Message
from highlanderd.guardian.protocol import FORK_SERVER, FORKED, GUARDIAN, KEEPER, SPARE, WORKER

TERM = {"program": "beat", "lock_id": 7, "epoch": 2}
LOG = {
    "files": {"stdout": b"/var/log/beat"},
    "inherit": ["stderr"],
    "max_bytes": 1000,
    "backups": 2,
    "compress": True,
    "timestamps": False,
    "format": "text",
    "overflow": "wait",
}
STATE = messages.state({**TERM, "deadline": 1.0, "memo": b"led"})

EXAMPLES: dict[str, tuple[str, str, Message]] = {
    "hello": (GUARDIAN, WORKER, messages.hello("a UUID", draining=False, memo=True, signals=["HUP"], version="1.2.0")),
    "keeper": (GUARDIAN, WORKER, messages.keeper(1, TERM)),
    "term": (GUARDIAN, WORKER, messages.term(1, TERM, STATE)),
    "logger": (GUARDIAN, WORKER, messages.logger(TERM)),
    "listed": (GUARDIAN, WORKER, messages.listed()),
    "refused": (GUARDIAN, WORKER, messages.refused(TERM, "too late")),
    "emptied": (GUARDIAN, WORKER, messages.emptied(TERM)),
    "signalled": (GUARDIAN, WORKER, messages.signalled("TERM")),
    "pong": (GUARDIAN, WORKER, messages.pong(3)),
    "ping": (WORKER, GUARDIAN, messages.ping(3, 10.0)),
    "spawn": (WORKER, GUARDIAN, messages.spawn("beat", 7, 2, 1.0)),
    "prepare": (WORKER, GUARDIAN, messages.prepare("beat", 7, 2, 1.0)),
    "discard": (WORKER, GUARDIAN, messages.discard(7)),
    "remember": (WORKER, GUARDIAN, messages.remember()),
    "attend": (WORKER, GUARDIAN, messages.attend()),
    "listener": (WORKER, GUARDIAN, messages.listener()),
    "lift": (WORKER, GUARDIAN, messages.lift("beat")),
    "ack": (WORKER, GUARDIAN, messages.ack(7, 2)),
    "kill_keeper": (WORKER, GUARDIAN, messages.kill_keeper(1, "does not answer")),
    "log": (WORKER, GUARDIAN, messages.log(TERM, {"files": {}, "inherit": ["stdout"]})),
    "reopen": (WORKER, GUARDIAN, messages.reopen(TERM)),
    "draining": (WORKER, GUARDIAN, messages.draining()),
    "notify": (WORKER, GUARDIAN, messages.notify("READY=1")),
    "successor": (WORKER, GUARDIAN, messages.successor(4711, 3)),
    "done": (WORKER, GUARDIAN, messages.done(0)),
    "spare": (SPARE, GUARDIAN, messages.spare(4711)),
    "loaded": (SPARE, WORKER, messages.loaded(4711)),
    "begin": (GUARDIAN, SPARE, messages.begin()),
    "fork": (GUARDIAN, FORK_SERVER, messages.fork()),
    "forked": (FORK_SERVER, GUARDIAN, messages.forked(4711)),
    "become_keeper": (GUARDIAN, FORKED, messages.become_keeper(3, "/sys/fs/cgroup/beat", ["stdout"], gated=True)),
    "become_logger": (GUARDIAN, FORKED, messages.become_logger(["stdout"], again=False)),
    "worker": (GUARDIAN, KEEPER, messages.worker()),
    "execute": (GUARDIAN, KEEPER, messages.execute(1.0, 0.5, b"led")),
    "deadline": (WORKER, KEEPER, messages.deadline(1.0, b"led")),
    "signal": (WORKER, KEEPER, messages.signal(15, "tree")),
    "watch": (WORKER, KEEPER, messages.watch(30.0)),
    "probe": (WORKER, KEEPER, messages.probe(1, [b"true"], 3.0)),
    "hook": (WORKER, KEEPER, messages.hook("after_ready")),
    "end": (WORKER, KEEPER, messages.end("released", announced=True)),
    "kill": (WORKER, KEEPER, messages.kill()),
    "leave": (WORKER, KEEPER, messages.leave()),
    "state": (KEEPER, GUARDIAN, STATE),
    "acknowledged": (KEEPER, WORKER, messages.acknowledged(1.0)),
    "state_with_pipes": (KEEPER, WORKER, messages.state_with_pipes(STATE, ["stdout"])),
}
"""What each constructor makes, by its name, with sender and receiver."""

KINDS = {(kind.sender, kind.receiver, kind.name): kind for kind in protocol.MESSAGES}


def assert_fits(message: Message, keys: Mapping[str, str]) -> None:
    assert set(message) == set(keys)
    shapes.check_keys(message, dict(keys))


def constructors() -> list[str]:
    functions = inspect.getmembers(messages, inspect.isfunction)
    return [name for name, function in functions if function.__module__ == messages.__name__]


def test_no_message_has_two_rows() -> None:
    assert len(KINDS) == len(protocol.MESSAGES)


def test_each_constructor_makes_one_row_and_each_row_has_a_constructor() -> None:
    assert set(constructors()) == set(EXAMPLES)
    assert sorted((sender, receiver, message["is"]) for sender, receiver, message in EXAMPLES.values()) == sorted(KINDS)


@pytest.mark.parametrize("constructor", sorted(EXAMPLES))
def test_a_constructor_makes_exactly_the_keys_of_its_row(constructor: str) -> None:
    sender, receiver, message = EXAMPLES[constructor]
    kind = KINDS[sender, receiver, message["is"]]
    assert_fits(message, {"is": "str", **kind.keys})


@pytest.mark.parametrize(
    ("receiver", "senders", "handlers"),
    [
        (GUARDIAN, {WORKER}, guardian.HANDLERS),
        (WORKER, {GUARDIAN}, guardian_link.HANDLERS),
        (KEEPER, {GUARDIAN, WORKER}, keeper.HANDLERS),
        (FORKED, {GUARDIAN}, forked.HANDLERS),
    ],
)
def test_a_receiver_handles_exactly_its_rows(receiver: str, senders: set[str], handlers: Mapping[str, object]) -> None:
    assert set(handlers) == {name for sender, to, name in KINDS if to == receiver and sender in senders}


def test_only_their_page_builds_messages() -> None:
    page = Path(messages.__file__)
    others = [path for path in page.parents[1].rglob("*.py") if path != page]
    assert others
    assert not [path.name for path in others if '"is":' in path.read_text("utf-8")]


def test_a_keeper_sends_nothing_but_its_state_and_briefly_that_a_deadline_holds() -> None:
    """Guardian and worker read what a keeper sends without a table of handlers."""
    sent = {(receiver, name) for sender, receiver, name in KINDS if sender == KEEPER}
    assert sent == {(GUARDIAN, "state"), (WORKER, "state"), (WORKER, "acknowledged")}


@pytest.mark.parametrize("whole", [True, False])
def test_a_spawn_request_is_written_with_exactly_the_keys_that_the_table_names(whole: bool) -> None:
    more: dict[str, Any] = (
        {"cwd": "/", "uid": 1, "gid": 2, "groups": (3,), "log": LOG, "hooks": {"after_stop": ("true",)}}
        if whole
        else {}
    )
    request = SpawnRequest("beat", 7, 2, 1.0, 2.0, b"led", ("true",), {"PATH": "/bin"}, **more)
    spec = marshal.loads(request.spec())  # noqa: S302 - written one line above
    assert_fits(spec, protocol.SPEC)
    if whole:
        assert_fits(spec["log"], protocol.LOG)
