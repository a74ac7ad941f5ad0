"""A command line that answers a mistyped command with the nearest one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """Its commands are an argument that is shown as ``COMMAND``."""

    commands: Collection[str] = ()
    """What may be typed for it; set it once all commands are added."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        found = re.search(r"argument COMMAND: invalid choice: '([^']*)'", message)
        answer = "" if found is None else self.unknown(found[1])
        super().error(message if found is None or not answer else f"there is no command {found[1]!r}{answer}")

    def unknown(self, word: str) -> str:
        """Return how the sentence ends that there is no such command; empty where none is near."""
        import difflib  # for this message only

        near = difflib.get_close_matches(word, self.commands, 1)
        return f"; did you mean {near[0]!r}?" if near else ""
