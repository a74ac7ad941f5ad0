"""What a refused connection means: other software has its own words, and old servers refuse our options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from highlanderd.postgres import fitness
from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.dialling import connect
from highlanderd.postgres.replies import ConnectFailed
from highlanderd.postgres.wire import UNWATCHED, Reports, Wire

MEANINGS: Final = 32
"""Texts whose meaning is remembered: a text with a number in it may come in any number."""


class Diagnoses:
    """The meanings of refused connections, by their text, since the last connection that served."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._meanings: dict[str, str] = {}
        """Empty for a refusal that means what it says."""

    def clear(self) -> None:
        """Forget them: the server has changed."""
        self._meanings.clear()

    async def diagnose(
        self, failure: ConnectFailed, plain: Mapping[str, str], ours: Mapping[str, str], within: float
    ) -> Wire:
        """Find out once what a refusal means, and raise that each time; see ``diagnose``."""
        text = str(failure)
        if known := self._meanings.get(text):
            raise Unfit(known) from failure
        if known is not None:
            raise failure
        if len(self._meanings) >= MEANINGS:
            self._meanings.clear()
        self._meanings[text] = ""
        try:
            return await diagnose(failure, plain, ours, within, self._reports)
        except Unfit as unfit:
            self._meanings[text] = str(unfit)
            raise


async def diagnose(
    failure: ConnectFailed,
    plain: Mapping[str, str],
    ours: Mapping[str, str],
    within: float,
    reports: Reports = UNWATCHED,
) -> Wire:
    """Find out what a refusal means, by a connection with the ``plain`` parameters, without our options.

    Return the connection if the server takes our options at the second try: it was just starting.
    Raises ``failure`` when a plain connection fails as well, Unfit when only the options are in the way.
    """
    if sentence := fitness.foreseen(str(failure)):
        raise Unfit(sentence) from failure
    try:
        question = await connect({**plain, "gssencmode": "disable"}, within)
    except ConnectFailed:
        raise failure from None
    try:
        fitness.refuse_software(question.server_version, question.parameter)
    finally:
        question.drop("only a question")
    try:
        return await connect(ours, within, reports)
    except ConnectFailed as again:
        if again.timed_out:
            raise
        raise Unfit(fitness.SETTINGS_REFUSED.format(again)) from again
