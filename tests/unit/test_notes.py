"""What an operator is shown of PostgreSQL: each warning while it is true, each line once."""

from __future__ import annotations

import logging

import pytest

from highlanderd.postgres.notes import Notes


def test_a_warning_stands_until_its_subject_is_judged_again() -> None:
    notes = Notes(on_alarm=lambda _: None)
    notes.warn("health", ["dead rows", "a trigger"])
    notes.warn("lease", ["another lease"])
    notes.warn("health", ["a trigger"])
    assert notes.warnings == {"a trigger", "another lease"}
    notes.warn("health", [])
    assert notes.warnings == {"another lease"}


def test_a_warning_is_logged_when_it_begins_and_when_it_begins_again(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes(on_alarm=lambda _: None)
    for sentences in (["a trigger"], ["a trigger"], [], ["a trigger"]):
        notes.warn("health", sentences)
    assert [record.message for record in caplog.records] == ["a trigger", "a trigger"]


def test_an_unexpected_exception_has_its_traceback_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    notes = Notes(on_alarm=lambda _: None)
    for _ in range(2):
        notes.unforeseen("cannot connect", ArithmeticError("odd"))
    assert [record.levelname for record in caplog.records] == ["ERROR", "DEBUG"]
    assert [record.exc_info is not None for record in caplog.records] == [True, False]
