"""A command line that answers a mistyped command or option with the nearest one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Sequence
from typing import Any, Final, NoReturn

NEAR: Final = 0.82
"""How alike an option must be to be meant, from 0 to 1: many are short words after two dashes."""


class CommandParser(argparse.ArgumentParser):
    """Its commands are an argument that is shown as ``COMMAND``."""

    commands: Collection[str] = ()
    """What may be typed for it; set it once all commands are added."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Leave with exit code 2 for what a command does not take: here its own usage can be shown."""
        arguments, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self.not_taken(unknown))
        return arguments, unknown

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        if message.endswith(" required: COMMAND"):
            message = f"name a command; '{self.prog} --help' lists them"
        found = re.search(r"argument COMMAND: invalid choice: '([^']*)'", message)
        answer = "" if found is None else self.unknown(found[1])
        super().error(message if found is None or not answer else f"there is no command {found[1]!r}{answer}")

    def not_taken(self, words: Sequence[str]) -> str:
        """Return what to say of words that are left over, without the value of any: it may be secret."""
        import difflib  # for this message only

        typed = [word for word in words if word.startswith("-") and word != "-"]
        options = [word.partition("=")[0] if word.startswith("--") else word[:2] for word in typed]
        if not options:
            return f"{words[0]!r} is one word too many"
        near = difflib.get_close_matches(options[0], self._option_string_actions, 1, NEAR)
        cure = f"did you mean {near[0]}?" if near else f"'{self.prog} --help' lists those that there are"
        return f"there is no option {options[0]}; {cure}"

    def unknown(self, word: str) -> str:
        """Return how the sentence ends that there is no such command; empty where none is near."""
        import difflib  # for this message only

        near = difflib.get_close_matches(word, self.commands, 1)
        return f"; did you mean {near[0]!r}?" if near else ""
