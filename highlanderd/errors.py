"""Errors that an operator can act on: each is a sentence with its cure, and carries its exit code.

Bugs of this project are not among them: they travel as they are, and end the worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Exit codes that people script against; sysexits.h for 78.
DONE = 0
FAILED = 1
USAGE = 2
NOT_LEADING = 3
NO_SUCH_PROGRAM = 4
UNREACHABLE = 5
NOT_PERMITTED = 6
TIMED_OUT = 7
CONFIGURATION_INVALID = 78
INTERRUPTED = 130
"""What shells expect after Ctrl-C: 128 and the signal's number."""


class HighlanderError(Exception):
    """A failure the operator can act on. ``str()`` is the whole sentence, cure included."""

    exit_code = FAILED
    code = "failed"
    """The machine-readable word for it in the control API."""


class ConfigurationError(HighlanderError):
    """The configuration cannot be used. ``problems`` lists every one of them, ``file:line: key: ...``."""

    exit_code = CONFIGURATION_INVALID
    code = "configuration_invalid"

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NoSuchProgram(HighlanderError):
    """No program of that name is configured on this node, or on any node where all are meant."""

    exit_code = NO_SUCH_PROGRAM
    code = "no_such_program"

    @classmethod
    def among(cls, name: str, known: Iterable[str]) -> NoSuchProgram:
        """Return the error whose sentence names the programs that this node has, or those that a glob means there."""
        from fnmatch import filter as matching  # for this message only

        if these := sorted(known) if name == "all" else matching(sorted(known), name):
            return cls(f"{name!r} means {listed(these)} here; name one program")
        return cls(f"no program {name!r} is configured on this node; it has {listed(known)}")

    @classmethod
    def anywhere(cls, name: str, known: Iterable[str]) -> NoSuchProgram:
        """Return the error whose sentence names the programs that the nodes of the cluster have."""
        return cls(f"no node has a program {name!r}; there are {listed(known)}")


class NoSuchNode(HighlanderError):
    """The ledger knows no node of that name."""

    exit_code = NO_SUCH_PROGRAM
    code = "no_such_node"

    @classmethod
    def among(cls, names: Iterable[str], known: Iterable[str]) -> NoSuchNode:
        """Return the error whose sentence names the nodes that there are."""
        return cls(f"the ledger knows no node {enumerated([repr(name) for name in names])}; it has {listed(known)}")


class NotLeading(HighlanderError):
    """The order only makes sense where the program is led, and this node does not lead it."""

    exit_code = NOT_LEADING
    code = "not_leading"


class NeedsForce(HighlanderError):
    """The order may do harm, which its sentence names; an operator who accepts that repeats it with force."""

    code = "needs_force"


class BadRequest(HighlanderError):
    """The command line or the request makes no sense; nothing was done."""

    exit_code = USAGE
    code = "bad_request"


class NotPermitted(HighlanderError):
    """The peer of the control socket may not command this daemon."""

    exit_code = NOT_PERMITTED
    code = "not_permitted"


class DaemonUnreachable(HighlanderError):
    """No daemon answers on the control socket."""

    exit_code = UNREACHABLE
    code = "unreachable"


class Unanswered(HighlanderError):
    """PostgreSQL gives no answer."""

    @classmethod
    def about(cls, name: str, known: Iterable[str], why: str) -> Unanswered:
        """Return the error for a program that only another node could have; ``why`` is why that cannot be asked."""
        return cls(
            f"this node has no program {name!r}, and whether another one has it cannot be asked: {why}; it has "
            f"{listed(known)}"
        )


class TimedOut(HighlanderError):
    """What was waited for did not happen in time; it may still happen."""

    exit_code = TIMED_OUT
    code = "timed_out"


class Interrupted(HighlanderError):
    """The daemon that has an order is ending, or its worker was replaced, before it answered; it may be done."""

    code = "interrupted"


def printable(text: str) -> str:
    """Return text whose lines a terminal and a log only show: whatever could do more is spelled out.

    What clients, children, servers and other nodes say may hold control characters, and signs that turn a line around.

    >>> printable("a\\x1b[2J\\rb\\nc\\u202ed"), printable("caf\u00e9\\t1")
    ('a\\\\x1b[2J\\\\rb\\nc\\\\u202ed', 'caf\u00e9\\t1')
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Return printable text without line ends, which could feign a line of another sender."""
    return printable(text).replace("\n", "\\n")


_KINDS = (
    BadRequest,
    NoSuchProgram,
    NoSuchNode,
    NotLeading,
    NotPermitted,
    NeedsForce,
    TimedOut,
    Interrupted,
    HighlanderError,
)
KINDS = {kind.code: kind for kind in _KINDS}
"""What another daemon may refuse an order with, by the word for it."""


def refusal(code: str, message: str) -> HighlanderError:
    """Return the error that another daemon has answered with."""
    return KINDS.get(code, HighlanderError)(message)


def enumerated(names: Sequence[str], most: int = 5) -> str:
    """Return names for a sentence: ``most`` of them, and how many more there are.

    >>> enumerated(["a", "b"]), enumerated("abcdefg")
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def listed(names: Iterable[str]) -> str:
    """Return what there is for the sentence of a refusal: always in the same order, and of many only the first.

    >>> listed(["b", "a"]), listed([])
    ('a, b', 'none')
    """
    return enumerated(sorted(names), 20) or "none"


def lacking(why: object) -> str:
    """Return the sentence of a command that cannot go on without a library."""
    return f"it cannot start, for want of a library: {' '.join(str(why).split())}; install that"
