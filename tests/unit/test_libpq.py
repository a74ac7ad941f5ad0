"""libpq's connection strings, and what of psycopg a daemon imports."""

from __future__ import annotations

import subprocess
import sys

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


@pytest.mark.parametrize(
    ("imported", "missing"),
    [
        ("highlanderd.worker.daemon", "psycopg.connection"),
        ("highlanderd.worker.startup", "highlanderd.worker.daemon"),  # the guardian begins while that is imported
    ],
)
def test_a_start_waits_for_no_import_that_it_does_not_need(imported: str, missing: str) -> None:
    words = f"import sys, {imported}; sys.exit({missing!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", words], check=True)


@pytest.mark.parametrize(
    "words", ["import psycopg; psycopg.connect", "import psycopg; psycopg.errors.UniqueViolation; psycopg.Cursor"]
)
def test_all_of_psycopg_can_be_used_afterwards(words: str) -> None:
    subprocess.run([sys.executable, "-c", f"import highlanderd.libpq; {words}"], check=True)
