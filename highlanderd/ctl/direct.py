"""Questions to PostgreSQL itself, where no daemon runs."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import Final, Protocol

from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.errors import ConfigurationError, HighlanderError, TimedOut, refusal

LEAST_PATIENCE: Final = 5.0
"""Seconds for one question in any case: Python has to start for it, perhaps on a busy machine."""


class Asked(Protocol):
    """What answers a question of a command: a daemon, or PostgreSQL itself."""

    def ask(self, method: str, resource: str) -> Answer:
        """Return the answer. Raises HighlanderError."""


class Direct:
    """PostgreSQL itself. It answers what a daemon would on its control socket, as far as the ledger knows that.

    Another process asks, because what speaks to PostgreSQL takes long to import. The DSN reaches it by the environment,
    which no other user can read.
    """

    def __init__(self, dsn: str | None, config: str | None, within: float | None = None) -> None:
        """``within`` is for how many seconds from now on there may be questions; None for as long as each takes."""
        self._end = None if within is None else time.monotonic() + within
        asked = {"HIGHLANDER_DSN": dsn, "HIGHLANDER_CONFIG": config}
        self._asked: Final[Mapping[str, str]] = {name: value for name, value in asked.items() if value}

    def ask(self, method: str, resource: str) -> Answer:  # noqa: ARG002 - every question is a GET
        """Return the answer. Raises HighlanderError."""
        import subprocess  # for this alone

        command = [sys.executable, "-m", "highlanderd.direct", resource]
        left = None if self._end is None else max(LEAST_PATIENCE, self._end - time.monotonic())
        environment = {**os.environ, **self._asked}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=left)
        except subprocess.TimeoutExpired:
            raise TimedOut("PostgreSQL has not answered in time") from None
        try:
            answer = json.loads(done.stdout)
        except ValueError as error:
            raise HighlanderError(done.stderr.strip()) from error
        if "error" in answer:
            raise _refusal(answer["error"]["code"], answer["error"]["message"])
        return dict(answer)


def _refusal(code: str, message: str) -> HighlanderError:
    return ConfigurationError((message,)) if code == ConfigurationError.code else refusal(code, message)


def asked(daemon: ControlClient, arguments: Namespace, within: float | None = None) -> Asked:
    """Return what a command's options name: PostgreSQL itself, or else the daemon. ``within`` is for PostgreSQL."""
    return Direct(arguments.dsn, arguments.config, within) if arguments.dsn or arguments.config else daemon
