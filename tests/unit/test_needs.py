"""A node contends for what it has descriptors for, and says what it lacks."""

from __future__ import annotations

from highlanderd.config import ProgramConfig
from highlanderd.config.needs import RESERVE, affordable, descriptors, shortage


def programs(count: int, **keys: str) -> dict[str, ProgramConfig]:
    names = [f"program-{number}" for number in range(count)]
    return {name: ProgramConfig(name=name, command=("true",), **keys) for name in names}  # type: ignore[arg-type]


def test_what_is_affordable_needs_no_more_than_the_limit_and_one_more_would() -> None:
    wanted = programs(400)
    for limit in (0, 200, 256, 1024, 1500):
        names = list(affordable(wanted, limit))
        assert names == [] or descriptors(wanted[name] for name in names) <= limit
        more = list(wanted)[: len(names) + 1]
        assert descriptors(wanted[name] for name in more) > limit or len(names) == len(wanted)


def test_the_first_ones_in_the_file_contend() -> None:
    assert affordable(programs(400), 1024) == set(list(programs(400))[: len(affordable(programs(400), 1024))])


def test_a_reserve_is_kept_that_no_program_takes() -> None:
    assert descriptors([]) >= RESERVE


def test_output_costs_a_program_descriptors() -> None:
    into_files = programs(300, stdout="/var/log/out", stderr="/var/log/err")
    assert descriptors(into_files.values()) > descriptors(programs(300, stdout="null", stderr="null").values())


def test_a_shortage_names_the_need_the_limit_and_the_cure() -> None:
    said = shortage(programs(400), 1024)
    assert "need 1712 open files, and this process may have 1024: only the first 228 of 400 contend" in said
    assert "LimitNOFILE" in said
    assert shortage(programs(400), 4096) == ""
