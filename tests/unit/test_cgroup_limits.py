"""Claims about limits by cgroup, on a directory that stands for the kernel's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from highlanderd.guardian import cgroup, leaf
from highlanderd.guardian.cgroup_limits import apply
from highlanderd.system import cgroup_places, controllers

LIMITS = {"memory_max": 64 << 20, "cpu_max": 150_000, "tasks_max": 20}
FILES = ("memory.max", "memory.oom.group", "cpu.max", "pids.max")


def made(directory: Path, **files: str) -> Path:
    """Make a directory with the files that the kernel would make; a file that is not there cannot be written."""
    directory.mkdir()
    for name, text in files.items():
        (directory / name.replace("_", ".", 1)).write_text(text)
    return directory


def daemons(tmp_path: Path, *, offered: str = "cpu memory pids", passed_on: str = "") -> Path:
    """Return what stands for the daemon's cgroup, with its leaf."""
    top = made(tmp_path / "daemon", cgroup_controllers=offered, cgroup_subtree_control=passed_on, cgroup_type="domain")
    made(top / cgroup.LEAF, cpu_weight="100", cgroup_procs="")
    return top


def child(top: Path, *files: str) -> Path:
    """Return what stands for a child's cgroup."""
    directory = top / "child"
    directory.mkdir()
    for name in files:
        (directory / name).touch()
    return directory


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_each_limit_is_written_and_a_tree_without_memory_dies_as_a_whole(tmp_path: Path) -> None:
    directory = child(daemons(tmp_path, passed_on="cpu memory pids"), *FILES)
    assert apply(str(directory), LIMITS) == ""
    assert contents(directory) == {
        "memory.max": "67108864",
        "memory.oom.group": "1",
        "cpu.max": "150000 100000",
        "pids.max": "20",
    }


@pytest.mark.parametrize(
    ("name", "written", "weight"),
    [("memory_max", "+memory", "100"), ("cpu_max", "+cpu", "10000"), ("tasks_max", "+pids", "100")],
)
def test_only_the_controller_of_a_limit_is_switched_on(tmp_path: Path, name: str, written: str, weight: str) -> None:
    """The processors are then shared by cgroup, and the daemon's must not be one of many."""
    top = daemons(tmp_path)
    assert apply(str(child(top, *FILES)), {name: LIMITS[name]}) == ""
    assert (top / "cgroup.subtree_control").read_text() == written
    assert (top / cgroup.LEAF / "cpu.weight").read_text() == weight


def test_a_controller_that_is_on_is_not_switched_on_again(tmp_path: Path) -> None:
    top = daemons(tmp_path, passed_on="cpu pids")
    assert apply(str(child(top, *FILES)), {"cpu_max": 5_000, "tasks_max": 1}) == ""
    assert (top / "cgroup.subtree_control").read_text() == "cpu pids"
    assert (top / cgroup.LEAF / "cpu.weight").read_text() == "100"


def test_what_cannot_be_written_is_named_and_the_rest_holds(tmp_path: Path) -> None:
    directory = child(daemons(tmp_path, passed_on="cpu memory pids"), "pids.max", "memory.max")
    said = apply(str(directory), LIMITS)
    assert said.split("; ") == [
        f"memory_max cannot hold: No such file or directory ({directory}/memory.oom.group)",
        f"cpu_max cannot hold: No such file or directory ({directory}/cpu.max)",
    ]
    assert contents(directory) == {"memory.max": "", "pids.max": "20"}


def test_a_daemon_that_may_make_no_cgroup_says_so() -> None:
    said = apply(None, LIMITS)
    assert said.startswith("memory_max, cpu_max and tasks_max cannot hold: the daemon may make no cgroup of version 2;")


def test_a_controller_that_was_not_delegated_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = daemons(tmp_path, offered="memory pids")
    monkeypatch.setattr(controllers, "lack", lambda _: "")
    (top / "cgroup.subtree_control").chmod(0o400)
    monkeypatch.setattr(cgroup, "write", refusal(errno.ENOENT))
    said = apply(str(child(top)), {"cpu_max": 5_000})
    assert said.startswith(f"cpu_max cannot hold: {top} has not got the controller cpu; let systemd delegate it")
    monkeypatch.setattr(controllers, "lack", lambda name: f"there is no {name} here")
    assert apply(str(top / "child"), {"cpu_max": 5_000}) == "cpu_max cannot hold: there is no cpu here"


def test_a_cgroup_that_others_are_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = daemons(tmp_path)
    monkeypatch.setattr(cgroup, "write", refusal(errno.EBUSY))
    said = apply(str(child(top)), {"memory_max": 64 << 20})
    assert said.startswith(f"memory_max cannot hold: processes that are not the daemon's are in its cgroup, {top};")


def refusal(number: int) -> object:
    """Return a kernel that takes nothing."""

    def refuse(path: str, _data: bytes) -> None:
        raise OSError(number, os.strerror(number), path)

    return refuse


# ------------------------------------------------------------------------------------------- the daemon's own place


@pytest.fixture
def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return what stands for the cgroup that this process, taken for a daemon, is in."""
    top = daemons(tmp_path)
    (top / "cgroup.procs").write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(cgroup_places, "places", lambda: iter([(str(top), str(tmp_path))]))
    return top


def moved(top: Path) -> str:
    return (top / cgroup.LEAF / "cgroup.procs").read_text()


def test_the_daemon_moves_out_of_its_childrens_way(placed: Path) -> None:
    leaf.settle()
    assert moved(placed) == str(os.getpid())


def test_where_others_are_too_nothing_moves(placed: Path) -> None:
    (placed / "cgroup.procs").write_text(f"{os.getpid()}\n{os.getppid()}\n")
    leaf.settle()
    assert moved(placed) == ""


def test_a_process_that_cannot_be_seen_is_another(placed: Path) -> None:
    (placed / "cgroup.procs").write_text(f"{os.getpid()}\n0\n")
    leaf.settle()
    assert moved(placed) == ""


@pytest.mark.parametrize(("file", "text"), [("cgroup.controllers", "hugetlb rdma"), ("cgroup.controllers", "")])
def test_where_no_child_could_be_limited_nothing_moves(placed: Path, file: str, text: str) -> None:
    (placed / file).write_text(text)
    leaf.settle()
    assert moved(placed) == ""


def test_in_the_root_of_all_cgroups_nothing_moves(placed: Path) -> None:
    (placed / "cgroup.type").unlink()
    leaf.settle()
    assert moved(placed) == ""


def test_a_process_in_the_leaf_finds_the_childrens_cgroups_above(placed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroup.own() == str(placed)
    monkeypatch.setattr(cgroup_places, "places", lambda: iter([(f"{placed}/{cgroup.LEAF}", str(placed.parent))]))
    assert cgroup.own() == str(placed)


# ------------------------------------------------------------------------------------------------ what a machine lacks


def mounted(monkeypatch: pytest.MonkeyPatch, *mounts: Path) -> None:
    monkeypatch.setattr(cgroup_places, "mounts", lambda: iter([("/", str(mount)) for mount in mounts]))


def test_a_machine_without_the_controller_is_told_from_one_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(monkeypatch)
    assert controllers.lack("memory").startswith("no cgroup v2 is mounted here; ")
    top = daemons(tmp_path, offered="cpu pids")
    mounted(monkeypatch, top)
    assert controllers.lack("memory").startswith("cgroup v2 has no controller memory here: ")
    assert controllers.lack("cpu") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for whom only a mount is read-only")
def test_a_tree_that_root_may_not_write_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = daemons(tmp_path)
    mounted(monkeypatch, top)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert controllers.lack("cpu").startswith(f"{top} is mounted read-only; ")
