"""What a change of a program's keys does to it."""

from __future__ import annotations

from typing import Any

import pytest

from highlanderd.config import ProgramConfig, ProgramKeys, json_schema
from highlanderd.config.probes import Delay, Notify
from highlanderd.worker.changes import APPLIED_AT_ONCE, PROBES, effect, needs_new_child

BEAT = ProgramConfig(name="beat", command=("true",))
NOTIFY = BEAT.model_copy(update={"ready": Notify()})


def changed(config: ProgramConfig = BEAT, **keys: Any) -> ProgramConfig:
    """Return the program with other keys."""
    return config.model_copy(update=keys)


def test_every_key_that_has_an_effect_at_once_is_a_key() -> None:
    assert {key for key, _ in json_schema.keys(ProgramKeys)} >= APPLIED_AT_ONCE | PROBES


@pytest.mark.parametrize(
    "keys",
    [
        *({"log_max_bytes": 1}, {"stop_timeout": 1.0}, {"prefer": ("a",)}, {"ready_timeout": 5.0}),
        *({"ready": Delay(2.0)}, {"alive_timeout": 5.0}),
    ],
)
def test_a_key_that_the_child_is_not_told_leaves_it_alone(keys: dict[str, Any]) -> None:
    assert not needs_new_child(BEAT, changed(**keys))
    assert effect(BEAT, changed(**keys), "a", led=True) == "applies at once"


@pytest.mark.parametrize(
    "keys",
    [
        *({"argv": ("false",)}, {"environment": {"A": "b"}}, {"limits": {"nofile": 9}}, {"nice": 1}, {"umask": 0o77}),
        *({"before_start": ("true",)}, {"hook_timeout": 5.0}, {"stdout": "null"}, {"ready": Notify()}),
    ],
)
def test_a_key_that_the_child_begins_with_needs_a_new_one(keys: dict[str, Any]) -> None:
    assert needs_new_child(BEAT, changed(**keys))
    assert effect(BEAT, changed(**keys), "a", led=True) == "drains and starts again here"
    assert effect(BEAT, changed(**keys), "a", led=False) == "is not led here: its next start here uses it"


def test_a_child_that_is_told_how_often_to_speak_needs_to_be_told_anew() -> None:
    watched = changed(alive=Notify())
    assert needs_new_child(watched, changed(watched, alive_timeout=5.0))
    assert not needs_new_child(NOTIFY, changed(NOTIFY, alive_timeout=5.0))


def test_a_node_that_the_file_names_in_never_starts_nothing_again() -> None:
    assert effect(BEAT, changed(never=("a",), umask=0o77), "a", led=True) == "drains and leaves this node"
