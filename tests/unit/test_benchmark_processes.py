"""What the benchmarks count of processes."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.output import measure
from tests.benchmarks.processes import cpu
from tests.support.wait import wait_for


@contextmanager
def asleep_after(work: str) -> Iterator[int]:
    """Run a process that does something, and then sleeps."""
    with subprocess.Popen(["sh", "-c", f"{work}; echo; exec sleep infinity"], stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        try:
            one.stdout.readline()
            yield one.pid
        finally:
            one.kill()


def test_a_process_that_used_less_than_a_tick_counts() -> None:
    """A keeper uses a millisecond in ten seconds; ticks of 10 ms show nothing of that, or ten times as much."""
    with asleep_after(":") as pid:
        used = wait_for(lambda: cpu([pid]), 5, what="the clock of a process that sleeps")
        assert round(used, 2) != used, "it is counted in ticks"
    assert cpu([pid]) == 0


def test_ended_children_count_for_who_has_waited_for_them() -> None:
    with asleep_after('sh -c "i=0; while [ \\$i -lt 100000 ]; do i=\\$((i + 1)); done"') as pid:
        assert cpu([pid]) > 0.01


def test_lines_that_a_logger_makes_longer_count_as_their_child_wrote_them(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        child = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
        logger = subprocess.Popen(["sed", "s/^/a stamp of some thirty characters: /"], stdin=child.stdout, stdout=file)
        try:
            [by_file, _] = measure(tmp_path / "log", logger.pid)
            [by_child, _] = measure(tmp_path / "log", logger.pid, source=child.pid)
        finally:
            for one in (logger, child):
                one.kill()
                one.communicate()
    assert 0 < by_child < by_file / 3
