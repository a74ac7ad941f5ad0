"""The lock id of a key: frozen for ever, and the same as a DBA computes in SQL."""

from __future__ import annotations

import pytest

from highlanderd.core.key import HIGHEST, HIGHEST_OF_PAIR, LOWEST, LOWEST_OF_PAIR, advisory_lock, lock_id


def test_a_string_gives_the_number_that_sql_gives() -> None:
    assert lock_id("highlander", "beat") == 8735414648771611572


@pytest.mark.parametrize(
    ("namespace", "key", "expected"),
    [
        ("highlander", "", -4075291164018241797),
        ("highlander", "größe", -7066473705848855887),
        ("other", "beat", 7186065470828060844),
    ],
)
def test_the_derivation_is_frozen(namespace: str, key: str, expected: int) -> None:
    assert lock_id(namespace, key) == expected


def test_the_namespace_is_part_of_a_strings_id() -> None:
    assert lock_id("one", "beat") != lock_id("two", "beat")


@pytest.mark.parametrize("key", [LOWEST, -1, 0, 42, HIGHEST])
def test_an_integer_is_the_id_itself_in_every_namespace(key: int) -> None:
    assert lock_id("one", key) == lock_id("two", key) == key


@pytest.mark.parametrize("key", [LOWEST - 1, HIGHEST + 1])
def test_an_integer_that_is_no_bigint_is_refused_with_the_bounds(key: int) -> None:
    with pytest.raises(ValueError, match=f"{key} does not fit PostgreSQL's bigint"):
        lock_id("highlander", key)


@pytest.mark.parametrize("pair", [(0, 0), (1, 52318), (-1, -1), (LOWEST_OF_PAIR, HIGHEST_OF_PAIR), (5, -7)])
def test_a_pairs_lock_is_the_pair_and_its_id_a_hash_that_is_one_in_all_namespaces(pair: tuple[int, int]) -> None:
    lock = advisory_lock("one", pair)
    assert lock.pair == pair
    assert LOWEST <= lock.number <= HIGHEST
    assert lock_id("one", pair) == lock_id("two", pair) == lock_id("pair", f"{pair[0]},{pair[1]}")
    assert lock != advisory_lock("one", lock.number), "the same bits in the other key space are another lock"


@pytest.mark.parametrize("pair", [(LOWEST_OF_PAIR - 1, 0), (0, HIGHEST_OF_PAIR + 1)])
def test_a_pair_that_is_no_two_integers_is_refused_with_the_bounds(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit PostgreSQL's integer"):
        advisory_lock("highlander", pair)


def test_a_strings_id_is_a_bigint() -> None:
    assert all(LOWEST <= lock_id("highlander", f"program-{n}") <= HIGHEST for n in range(1000))
