"""The messages between the daemon's processes, as ``guardian/protocol.py`` lists them."""

from __future__ import annotations

from collections.abc import Mapping

from tables import rows

from highlanderd.guardian import protocol


def table() -> str:
    """Every message: who sends it to whom, what it carries, and what it means."""
    return rows(
        ("from, to", "message", "keys", "descriptors", "since", "meaning"),
        (
            (
                f"{kind.sender}, {kind.receiver}",
                f"`{kind.name}`",
                "the keys of `state` above, `fds: list[str]`" if _repeats_state(kind) else _keys(kind.keys),
                _code(kind.descriptors),
                str(kind.since),
                _code(kind.meaning),
            )
            for kind in protocol.MESSAGES
        ),
    )


def spec() -> str:
    """What the memfd of ``spawn`` holds."""
    return rows(("key", "type"), ((f"`{name}`", f"`{kind}`") for name, kind in protocol.SPEC.items()))


def _repeats_state(kind: protocol.MessageKind) -> bool:
    return kind.name == "state" and kind.receiver == protocol.WORKER


def _keys(keys: Mapping[str, str]) -> str:
    return ", ".join(f"`{name}: {kind}`" for name, kind in keys.items())


def _code(text: str) -> str:
    return text.replace("``", "`")
