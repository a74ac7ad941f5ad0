"""libpq's connection strings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from highlanderd.libpq import OperationalError, connection_string, parsed

WORDS = st.text(st.characters(codec="utf-8", min_codepoint=1))


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(["host", "user", "password", "options", "dbname"]), WORDS))
def test_libpq_reads_what_was_written(parameters: dict[str, str]) -> None:
    assert parsed(connection_string(parameters).decode()) == parameters


def test_what_libpq_does_not_know_is_refused() -> None:
    with pytest.raises(OperationalError, match="hots"):
        parsed(connection_string({"hots": "db1"}).decode())
