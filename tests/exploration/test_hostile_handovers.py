"""What an earlier worker or another version has left is read, or refused with a sentence: never anything else."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from highlanderd.core.lease import Lengths
from highlanderd.core.states import Cause, Draining, Killing, Reservation, Situation, Term, Want
from highlanderd.worker import child_handover
from highlanderd.worker.handover import begin

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
TERM = Term(3, Lengths.alike(10.0), 1.0, 2.0)
LEFT = json.loads(
    child_handover.ChildHandover().encode(
        Situation(Want.RUN, Draining(TERM, Killing(), Cause.STOPPED, 4.0, 0.0, Reservation("b", 30.0), False))
    )
)


@given(st.dictionaries(st.sampled_from(sorted(LEFT)), VALUES, max_size=3), st.sets(st.sampled_from(sorted(LEFT))))
def test_a_keepers_memo_is_decoded_or_refused(bent: dict[str, object], missing: set[str]) -> None:
    facts = {name: value for name, value in {**LEFT, **bent}.items() if name not in missing}
    with suppress(ValueError):
        child_handover.decode(json.dumps(facts).encode(), 7, 1.0, 90.0)


@given(st.binary(max_size=30) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_a_memo_that_is_none_is_refused(memo: bytes) -> None:
    with suppress(ValueError):
        child_handover.decode(memo, 7, 1.0, 90.0)


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("handover") / "a.toml"
    file.write_text('[postgres]\ndsn = "host=/nowhere dbname=x"\n')
    return file


@given(memo=st.binary(max_size=30) | VALUES.map(lambda value: json.dumps(value).encode()), bent=VALUES)
def test_what_the_last_worker_left_is_used_or_the_file_counts(configuration: Path, memo: bytes, bent: object) -> None:
    for left in (
        memo,
        json.dumps({"base": bent, "latest": bent, "wishes": bent, "timelines": bent, "exits": {"beat": bent}}).encode(),
    ):
        assert begin(configuration, left, {}).programs == {}
