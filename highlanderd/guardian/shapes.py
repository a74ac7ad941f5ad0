"""Whether a message has the shape that the table of messages gives it.

What an older process, a broken one or the kernel has written is not trusted by its form: a time that is no number would
be a deadline at which nothing is killed.
"""

from __future__ import annotations

from highlanderd.guardian import protocol

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message

_KINDS = {(kind.receiver, kind.name): kind for kind in protocol.MESSAGES}
_NONE = type(None)
_TYPES = {"str": str, "int": int, "bool": bool, "bytes": bytes, "dict": dict}
_PLAIN = {kind: (of,) for kind, of in _TYPES.items()} | {f"{kind} | None": (of, _NONE) for kind, of in _TYPES.items()}


def check(receiver: str, message: Message) -> bool:
    """Return whether ``receiver`` knows this kind of message. Raises ValueError when a key is missing or mistyped."""
    kind = _KINDS.get((receiver, message["is"]))
    if kind is not None:
        check_keys(message, kind.keys, kind.later)
    return kind is not None


def check_keys(message: Message, keys: dict[str, str], later: tuple[str, ...] = ()) -> None:
    """Raise ValueError when a key is missing that is not among ``later``, or when a value is not of its type."""
    for name, kind in keys.items():
        if name in message:
            if not is_of(message[name], kind):
                raise ValueError(f"{message.get('is', 'a request')!r} has {name} = {message[name]!r:.100}, not {kind}")
        elif name not in later:
            raise ValueError(f"{message.get('is', 'a request')!r} lacks {name}")


def names_term(message: Message) -> bool:
    """Return whether a message says which term it is about."""
    return all(is_of(message.get(name), kind) for name, kind in protocol.TERM.items())


def is_of(value: object, kind: str) -> bool:
    """Return whether a value has a type of the table: ``int``, ``list[int]``, ``str | None``."""
    if kind in _PLAIN:
        return type(value) in _PLAIN[kind]
    if kind.endswith(" | None"):
        return value is None or is_of(value, kind.removesuffix(" | None"))
    if kind == "float":
        return type(value) in (float, int) and value == value  # what is no number is no time
    if kind.startswith("list["):
        return type(value) is list and all(is_of(each, kind[5:-1]) for each in value)
    of_key, of_value = kind.removeprefix("dict[")[:-1].split(", ")
    return type(value) is dict and all(is_of(k, of_key) and is_of(v, of_value) for k, v in value.items())
