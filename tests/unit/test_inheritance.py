"""A worker begins with what the last one has left, whatever version that was."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from highlanderd.core.events import Exited
from highlanderd.core.states import Want
from highlanderd.structs import replace
from highlanderd.worker.beginnings import Beginnings
from highlanderd.worker.handover import WorkerHandover, begin

FILE = """
[daemon]
node = "one"
[postgres]
dsn = "postgresql://nobody@127.0.0.1/nowhere"
[program.beat]
command = ["true"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "highlander.toml"
    file.write_text(FILE)
    return file


PAST = {
    "timelines": {"7": 3},
    "generation": 2,
    "promise": {"system": 7, "timeline": 3, "place": "the ledger", "ceiling": 90.0, "lease": 10.0},
}


def _left(path: Path) -> WorkerHandover:
    first = begin(path, None, {})
    exits = {"beat": (Exited(256, 1.5), 7)}
    stops = {"beat": "stopped by uid 0 on node web-1: new disk"}
    wishes, failures = {"beat": Want.STOP}, {"beat": 3}
    pauses = {"beat": (30.5, "exited with code 1")}
    beginnings = Beginnings(stops, exits, failures, pauses, schedules={"beat": ("0 * * * * UTC", 0.5)})
    return WorkerHandover(first.base, first.latest, wishes, True, PAST, beginnings=beginnings)


def test_the_next_worker_goes_on_with_what_was_in_force(path: Path) -> None:
    left = _left(path)
    path.write_text(FILE.replace("beat", "relay"))
    assert begin(path, left.encode(), {}) == left


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.pop("base"),
        lambda facts: facts.update(base=None),
        lambda facts: facts.update(base=facts["base"].replace("command", "kommando")),
        lambda facts: facts.update(latest="{}"),
    ],
)
def test_what_cannot_be_used_is_replaced_by_the_file_and_the_rest_is_kept(
    path: Path, change: object, caplog: pytest.LogCaptureFixture
) -> None:
    left = _left(path)
    facts = json.loads(left.encode())
    assert callable(change)
    change(facts)
    path.write_text(FILE.replace("beat", "relay"))
    with caplog.at_level(logging.ERROR):
        found = begin(path, json.dumps(facts).encode(), {})
    assert list(found.programs) == ["relay"]
    assert (found.wishes, found.seen_ledger, found.memory) == (left.wishes, True, left.memory)
    assert "cannot use what the last worker handed over" in caplog.text


@pytest.mark.parametrize("memo", [b"", b"\xff", b"[1]", b"{}"])
def test_garbage_is_no_inheritance(path: Path, memo: bytes) -> None:
    assert list(begin(path, memo, {}).programs) == ["beat"]


@pytest.mark.parametrize("bent", [None, [], [256], [256, "1", 7], [256, 1e300, 7], [-1, 1.5, 7], [256, 1.5, "7"], {}])
def test_an_exit_that_cannot_be_read_is_none(path: Path, bent: object) -> None:
    facts = json.loads(_left(path).encode())
    facts["exits"] = {"beat": bent, "bot": [9, 2.5, None]}
    assert begin(path, json.dumps(facts).encode(), {}).beginnings.exits == {"bot": (Exited(9, 2.5), None)}


@pytest.mark.parametrize("bent", [None, -1, 0, True, "3", 1.5, 1 << 64, [3]])
def test_a_count_of_failures_that_cannot_be_read_begins_anew(path: Path, bent: object) -> None:
    facts = json.loads(_left(path).encode())
    facts["failures"] = {"beat": bent, "bot": 2}
    assert begin(path, json.dumps(facts).encode(), {}).beginnings.failures == {"bot": 2}


@pytest.mark.parametrize("bent", [None, 7.5, [], [7.5], ["7", ""], [float("nan"), ""], [float("inf"), ""], [7.5, 1]])
def test_a_pause_that_cannot_be_read_is_none(path: Path, bent: object) -> None:
    facts = json.loads(_left(path).encode())
    facts["pauses"] = {"beat": bent, "bot": [7, "exited with code 1"]}
    assert begin(path, json.dumps(facts).encode(), {}).beginnings.pauses == {"bot": (7.0, "exited with code 1")}


@pytest.mark.parametrize("bent", [None, 7.5, [], ["words"], [7, 1.5], ["words", -1], ["words", 1e300], ["words", "1"]])
def test_a_schedule_that_cannot_be_read_is_taken_up_anew(path: Path, bent: object) -> None:
    facts = json.loads(_left(path).encode())
    facts["schedules"] = {"beat": bent, "bot": ["0 * * * * UTC", 2.5]}
    assert begin(path, json.dumps(facts).encode(), {}).beginnings.schedules == {"bot": ("0 * * * * UTC", 2.5)}


def test_a_worker_of_another_version_may_have_left_nothing_of_schedules(path: Path) -> None:
    facts = json.loads(_left(path).encode())
    del facts["schedules"]
    assert begin(path, json.dumps(facts).encode(), {}).beginnings == replace(_left(path).beginnings, schedules={})


def test_an_unknown_wish_is_no_wish(path: Path) -> None:
    facts = json.loads(_left(path).encode())
    facts["wishes"] = {"beat": "dance"}
    assert begin(path, json.dumps(facts).encode(), {}).wishes == {}
