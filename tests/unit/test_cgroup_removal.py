"""Cgroups are removed with what a child that root runs has made below them, however much that is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from highlanderd.guardian import cgroup
from highlanderd.system import linux

DEEPER = 1500
"""More levels than Python's stack has, whose path is short enough for the kernel."""


def nested(top: Path, levels: int) -> None:
    """Make directories, each in the last one."""
    top.mkdir()
    at = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("a", dir_fd=at)
        below = os.open("a", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_what_is_nested_deeper_than_any_stack_is_removed(tmp_path: Path) -> None:
    nested(tmp_path / "deep", DEEPER)
    cgroup.remove(str(tmp_path / "deep"), within=linux.NEVER)
    assert not (tmp_path / "deep").exists()


def test_what_takes_too_long_stays_and_holds_nothing_up(tmp_path: Path) -> None:
    nested(tmp_path / "deep", 20)
    cgroup.remove(str(tmp_path / "deep"), within=0.0)
    assert (tmp_path / "deep").exists()
    cgroup.remove(str(tmp_path / "deep"), within=linux.NEVER)
    assert not (tmp_path / "deep").exists()


def test_where_something_lives_the_others_go(tmp_path: Path) -> None:
    (tmp_path / "top" / "empty" / "below").mkdir(parents=True)
    (tmp_path / "top" / "lives").mkdir()
    (tmp_path / "top" / "lives" / "process").touch()  # as a cgroup with processes, it cannot be removed
    cgroup.remove(str(tmp_path / "top"), within=linux.NEVER)
    assert sorted(path.name for path in (tmp_path / "top").iterdir()) == ["lives"]


def test_a_cgroup_that_empties_while_it_is_looked_at_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is killed dies a moment later, between any two looks: nobody looks for it again after the last one."""
    (tmp_path / "highlander.former.1").mkdir()
    looks = iter([True])
    monkeypatch.setattr(cgroup, "populated", lambda _: next(looks, False))
    assert cgroup.sweep(str(tmp_path), "former", within=60.0) == []
    assert list(tmp_path.iterdir()) == []
