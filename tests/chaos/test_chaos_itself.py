"""The bed itself: the oracle sees what it must not overlook, and nothing is left of a run, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from highlanderd.guardian import cgroup
from tests.packaging.booted.machine import groups_can_be_killed
from tests.support.deaths import marked, proc_file
from tests.support.nodes import Nodes
from tests.support.postgres import Database
from tests.support.processes import children
from tests.support.wait import wait_for

from . import table
from .bed import NAMES
from .faults import registry
from .network import Undertaker
from .oracle import TABLES, Oracle
from .rounds import Outcome

pytestmark = pytest.mark.chaos


def heard(path: Path, *lines: str) -> Oracle:
    path.write_text("".join(f"{line}\n" for line in lines))
    return Oracle(path)


def test_two_lives_at_once_are_seen_by_program_and_by_lock(tmp_path: Path) -> None:
    first = ("start 10.0 beat 7 1 a 100", "alive 12.0 beat 7 1 a 100")
    assert not heard(tmp_path / "turn", *first, "start 12.1 beat 7 2 b 101").doubles()
    assert len(heard(tmp_path / "both", *first, "start 11.9 beat 7 2 b 101").doubles()) == 2
    assert len(heard(tmp_path / "lock", *first, "start 11.9 bot 7 2 b 101").doubles()) == 1
    assert len(heard(tmp_path / "back", *first, "start 12.1 beat 7 0 b 101").doubles()) == 2
    assert len(heard(tmp_path / "flock", *first, "doubled 12.1 beat 7 2 b 101").doubles()) == 1
    assert len(heard(tmp_path / "nodes", *first, "alive 12.1 beat 7 1 b 101").doubles()) == 1


def test_gaps_are_measured_between_lives(tmp_path: Path) -> None:
    lines = ("start 10.0 beat 7 1 a 100", "alive 12.0 beat 7 1 a 100", "start 12.5 beat 7 2 b 101")
    [gap] = heard(tmp_path / "journal", *lines).successions(11.0)
    assert (gap.program, gap.seconds) == ("beat", 0.5)
    assert heard(tmp_path / "journal", *lines).successions(12.6) == []


def test_how_long_two_lived_at_once_is_measured_for_each_program(tmp_path: Path) -> None:
    first = ("start 10.0 beat 7 1 a 100", "alive 12.0 beat 7 1 a 100", "start 10.0 bot 8 1 a 102")
    second = ("start 11.25 beat 7 2 b 101", "alive 13.0 beat 7 2 b 101", "alive 12.0 bot 8 1 a 102")
    oracle = heard(tmp_path / "journal", *first, *second)
    assert oracle.together(9.0) == 0.75
    assert oracle.together(12.5) == 0.0
    assert heard(tmp_path / "turn", *first, "start 12.5 beat 7 2 b 101").together(9.0) == -0.5


def test_the_notes_say_how_long_two_lived_at_once_and_what_is_promised() -> None:
    fault = registry()["failover, old primary serves on"]
    outcomes = [Outcome(fault.name, "seed", 0.0, "", struck=1, together=seconds) for seconds in (0.0, 0.5, 2.0)]
    [note] = table.notes({fault.name: fault}, outcomes)
    assert note.endswith("Two lived at once for 0.50 s in the middle, 2.00 s at most, where 1 L is promised")


@pytest.mark.parametrize(
    ("rows", "stands", "seen"),
    [
        ("(1, 1), (1, 2), (2, 3)", 3, []),
        ("(1, 1), (1, 2), (2, 2)", 2, ["counted 2 2 times", "stands at 2 after 3"]),
        ("(1, 1), (2, 2), (1, 3)", 3, ["under epoch 1 after 2"]),
        ("(1, 1), (1, 2)", 2, ["epoch 2: 1 commits acknowledged, 1 asked for, 0 found"]),
        ("(1, 1), (1, 2), (2, 3), (2, 4)", 4, ["epoch 2: 1 commits acknowledged, 1 asked for, 2 found"]),
    ],
    ids=["all is well", "lost update", "older epoch after a newer one", "lost commit", "uncounted commit"],
)
def test_a_lost_update_is_seen(database: Database, tmp_path: Path, rows: str, stands: int, seen: list[str]) -> None:
    oracle = heard(
        tmp_path / "journal",
        *("start 1.0 beat 7 1 a 100", "asked 1.1 beat 7 1 a 100", "committed 1.2 beat 7 1 a 100"),
        *("asked 1.3 beat 7 1 a 100", "start 2.0 beat 7 2 b 101", "asked 2.1 beat 7 2 b 101"),
        "committed 2.2 beat 7 2 b 101",
    )
    database.sql(TABLES, admin=True)
    counted = f"INSERT INTO shop.counted (program, epoch, value) SELECT 'beat', * FROM (VALUES {rows}) AS rows"
    database.sql(counted, admin=True)
    database.sql("INSERT INTO shop.counter VALUES ('beat', %s)", [stands], admin=True)
    said = oracle.lost_updates(lambda statement: database.sql(statement, admin=True))
    assert all(any(part in line for line in said) for part in seen)
    assert bool(said) == bool(seen)


def test_nothing_is_left_of_a_run_that_is_killed() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--clusters", "1", "--only", "release"]
    run = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        directory = wait_for(lambda: beds_of(run.pid), what="an undertaker is there")[0]
        wait_for(lambda: len(marked(directory)) > len(NAMES), what="daemons run")
    finally:
        run.kill()
        run.wait()
    wait_for(lambda: not directory.exists() and not marked(directory), what="the undertaker has done its work")


def test_an_undertaker_disbands_the_cgroups_that_a_bed_has_listed(open_dir: Path) -> None:
    if not groups_can_be_killed():
        pytest.skip("needs cgroups (version 2, of Linux 5.14 or newer) that may be made")
    group = f"{cgroup.own()}/highlander-test.{os.getpid()}.undertaker"
    assert cgroup.create(group)
    assert cgroup.create(f"{group}/below")
    bed = open_dir / "bed"
    (bed / "machine").mkdir(parents=True)
    (bed / "machine/cgroups").write_text(f"{group}\n{group}.that.is.not.there\n")
    command = ["sh", "-c", 'echo 0 > "$0/below/cgroup.procs" && exec sleep 60', group]
    with subprocess.Popen(command) as sleeper:
        wait_for(lambda: cgroup.populated(group), what="it sleeps in there")
        Undertaker(bed, 0).bury()
    assert (sleeper.returncode, Path(group).exists(), bed.exists()) == (-signal.SIGKILL, False, False)


def test_an_undertaker_outlives_the_nodes_of_its_bed(open_dir: Path) -> None:
    bed = open_dir / "bed"
    bed.mkdir()
    undertaker = Undertaker(bed, 0)
    Nodes(bed).end()
    undertaker.bury()
    assert not bed.exists()


def beds_of(run: int) -> list[Path]:
    """Return the directories of a run's beds: their undertakers work there."""
    undertakers = [pid for pid in children(run) if b"undertaker.py" in proc_file(f"/proc/{pid}/cmdline")]
    return [Path(f"/proc/{pid}/cwd").readlink() for pid in undertakers]
