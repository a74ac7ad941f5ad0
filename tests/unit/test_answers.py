"""The text of an answer is JSON that says the same as the library of Python would."""

from __future__ import annotations

import json

import pytest

from highlanderd.core.status import Process
from highlanderd.listeners.answers import encoded, facts_of


@pytest.mark.parametrize("name", ["sh", '\u00e9\u2028\x07\x7f"\\', "caf\udce9", ""])
def test_an_answer_says_what_the_snapshot_does_whatever_it_is_named(name: str) -> None:
    process = Process(1, 2**63 - 1, name, "S")
    assert json.loads(encoded(process)) == facts_of(process)
    facts = {"process": process, "seconds": [0.1, 1e16, -1e-7, 123456789.123], "none": None, "empty": {}}
    assert json.loads(encoded(facts)) == {**facts, "process": facts_of(process)}


def test_an_answer_is_laid_out_for_people() -> None:
    assert encoded({"node": "a", "programs": [True, None]}) == '{"node": "a", "programs": [true, null]}\n'
