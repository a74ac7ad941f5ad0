"""Claims about log files: rotation keeps every line, a full disk is reported, and what somebody moved is left alone."""

from __future__ import annotations

import fcntl
import gzip
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from highlanderd.guardian.log_file import LogFile
from tests.support.deaths import open_files, stand_still
from tests.support.loggers import LoggerProcess, logged, logger_process, packed, packers
from tests.support.scarcity import tiny_disk
from tests.support.wait import wait_for

STRANGER: Final[dict[str, Any]] = {"uid": 60_321, "gid": 60_321, "groups": [60_321]}


def lines_of(*paths: Path) -> list[bytes]:
    return [line for path in paths for line in path.read_bytes().splitlines()]


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"line number %06d" % number for number in range(first, first + count)]


def text(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def endless(path: Path) -> None:
    """Make a file that takes no room and an hour to compress: also a test that comes late sees that, and cuts it."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


def opened(logger: LoggerProcess) -> list[Path]:
    return [Path(name) for name in open_files(logger.pid).values()]


def test_rotation_keeps_every_line_in_order_and_no_file_outgrows_its_size(tmp_path: Path) -> None:
    path, sent = tmp_path / "log", numbered(300)
    logged(text(sent), path, max_bytes=1000, backups=9)
    files = [*(tmp_path / f"log.{n}" for n in range(9, 0, -1) if (tmp_path / f"log.{n}").exists()), path]
    assert len(files) > 3
    assert all(file.stat().st_size <= 1000 for file in files)
    assert lines_of(*files) == sent


def test_rotation_keeps_no_more_backups_than_asked_for(tmp_path: Path) -> None:
    logged(text(numbered(1000)), tmp_path / "log", max_bytes=1000, backups=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert lines_of(tmp_path / "log")[-1] == b"line number 000999"


def test_without_backups_the_file_starts_afresh(tmp_path: Path) -> None:
    logged(text(numbered(1000)), tmp_path / "log", max_bytes=1000, backups=0)
    assert [file.name for file in tmp_path.iterdir()] == ["log"]
    assert (tmp_path / "log").stat().st_size <= 1000
    assert lines_of(tmp_path / "log")[-1] == b"line number 000999"


def test_an_existing_file_counts_towards_its_size(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"o" * 990 + b"\n")
    logged(b"does not fit any more\n", tmp_path / "log", max_bytes=1000, backups=1)
    assert (tmp_path / "log").read_bytes() == b"does not fit any more\n"
    assert (tmp_path / "log.1").stat().st_size == 991


def test_a_rotation_that_fails_loses_no_line_and_is_reported(tmp_path: Path) -> None:
    (tmp_path / "log.1").mkdir()  # cannot be replaced by a file
    with logger_process(files={"stdout": tmp_path / "log"}, max_bytes=1000, backups=1) as logger:
        logger.write(text(numbered(200)))
        wait_for(lambda: logger.report()["unrotated"], what="it says that it cannot rotate")
        assert logger.end() == 0
    assert lines_of(tmp_path / "log") == numbered(200)


def test_a_file_that_somebody_moved_away_is_made_again(tmp_path: Path) -> None:
    path, sent = tmp_path / "log", 0
    with logger_process(files={"stdout": path}) as logger:
        logger.write(b"before\n")
        wait_for(lambda: path.exists() and path.read_bytes() == b"before\n", what="it is written")
        path.rename(tmp_path / "log.old")

        def arrives() -> bool:
            nonlocal sent
            logger.write(b"after\n")
            sent += 1
            return path.exists()

        wait_for(arrives, what="there is a new file")
        assert logger.end() == 0
    assert lines_of(tmp_path / "log.old", path) == [b"before"] + [b"after"] * sent


def test_a_file_that_somebody_has_cut_goes_on_at_its_beginning(tmp_path: Path) -> None:
    """As ``copytruncate`` does: written at the former place, the file would begin with a hole."""
    path = tmp_path / "log"
    with logger_process(files={"stdout": path}) as logger:
        logger.write(b"before\n")
        wait_for(lambda: path.exists() and path.read_bytes() == b"before\n", what="it is written")
        os.truncate(path, 0)
        logger.write(b"after\n")
        assert logger.end() == 0
    assert path.read_bytes() == b"after\n"


def test_an_unused_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with logger_process(files={"stdout": path}) as logger:
        logger.write(b"seldom\n")
        wait_for(lambda: path.exists() and path not in opened(logger), what="it is written and closed")
        logger.write(b"again\n")
        assert logger.end() == 0
    assert path.read_bytes() == b"seldom\nagain\n"


def test_what_failed_for_a_while_is_written_once_it_works_again(tmp_path: Path) -> None:
    path = tmp_path / "not yet" / "log"
    with logger_process(files={"stdout": path}) as logger:
        logger.write(text(numbered(10)))
        told = {str(path): "No such file or directory"}
        wait_for(lambda: logger.report()["troubles"] == told, what="it says what is wrong")
        path.parent.mkdir()
        wait_for(lambda: path.exists() and lines_of(path) == numbered(10), what="all is written")
        wait_for(lambda: not logger.report()["troubles"], what="nothing is wrong any more")
        assert logger.report()["recovered"] == {str(path): 1}


def test_a_full_disk_drops_the_oldest_lines_and_counts_them(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 65536) as disk, logger_process(files={"stdout": disk / "log"}) as logger:
        logger.write(text(numbered(200_000)))
        wait_for(lambda: sum(logger.report()["dropped"].values()), what="it has dropped some")
        wait_for(lambda: logger.report()["troubles"], what="it says what is wrong")


def test_a_file_that_another_process_has_leased_is_written_once_that_has_let_go(tmp_path: Path) -> None:
    """The kernel refuses to open it until then, with the error of a pipe that is full."""
    (tmp_path / "log").touch()
    ignored = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel's word to the one that holds a lease
    with (tmp_path / "log").open("r+b") as leased, logger_process(files={"stdout": tmp_path / "log"}) as logger:
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        logger.write(b"first\n")
        wait_for(lambda: logger.report()["troubles"], what="the logger says why nothing is written")
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        wait_for(lambda: lines_of(tmp_path / "log") == [b"first"], what="the line is written")
    signal.signal(signal.SIGIO, ignored)


def take_back(logger: LoggerProcess, log: Path) -> None:
    """Take a line out of the pipe that the logger has looked at and could not write; then let the log be written."""
    logger.write(b"first\n")
    wait_for(lambda: logger.report()["troubles"], what="the line cannot be written")
    assert os.read(logger.reads["stdout"], 100) == b"first\n"
    log.rmdir()


def test_a_child_that_takes_its_own_lines_back_keeps_no_logger_at_work(tmp_path: Path) -> None:
    """What was looked at is gone when it is to be taken out of the pipe."""
    (tmp_path / "log").mkdir()
    with logger_process(files={"stdout": tmp_path / "log"}) as logger:
        take_back(logger, tmp_path / "log")
        wait_for(lambda: (tmp_path / "log").is_file(), what="the file is made")
        assert logger.end() == 0
    assert lines_of(tmp_path / "log") == [b"first"]


def test_lines_after_those_that_a_child_took_back_are_whole(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with logger_process(files={"stdout": tmp_path / "log"}) as logger:
        take_back(logger, tmp_path / "log")
        wait_for(lambda: logger.report()["lines"].get("stdout") == 1, what="the line counts as written")
        logger.write(b"second\n")
        assert logger.end() == 0
    assert lines_of(tmp_path / "log") == [b"first", b"second"]


@pytest.fixture
def stranger_s_home() -> Iterator[Path]:
    """Return a directory of another user's, which that user can reach."""
    if os.geteuid():
        pytest.skip("only root can start programs as another user")
    with tempfile.TemporaryDirectory(prefix="highlander-test-") as home:
        os.chown(home, STRANGER["uid"], STRANGER["gid"])
        yield Path(home)


def test_an_earlier_version_s_file_of_root_s_is_set_aside(stranger_s_home: Path) -> None:
    """It is in the way, in a directory of the program's user: nobody but root can write into it."""
    home = stranger_s_home
    (home / "log").write_bytes(b"former\n")
    (home / "log").chmod(0o640)
    logged(b"new\n", home / "log", max_bytes=1000, backups=2, spec=STRANGER)
    assert (home / "log").read_bytes() == b"new\n"
    assert (home / "log").stat().st_uid == STRANGER["uid"]
    assert (home / "log.1").read_bytes() == b"former\n"
    assert (home / "log.1").stat().st_uid == 0


def test_a_user_who_cannot_reach_this_python_s_files_has_backups_compressed_all_the_same(stranger_s_home: Path) -> None:
    """Below /root, for instance: what a logger needs of them is there before it becomes that user."""
    order: dict[str, Any] = {"max_bytes": 30_000, "backups": 3, "compress": True, "spec": STRANGER}
    with logger_process(files={"stdout": stranger_s_home / "log"}, **order) as logger:
        logger.write(text(numbered(2000)))
        packed(stranger_s_home / "log.1")
    assert gzip.decompress((stranger_s_home / "log.1.gz").read_bytes()).startswith(b"line number 000000\n")


def told(path: Path, **order: Any) -> str:
    """Return what a logger says when it cannot write to a file."""
    with logger_process(files={"stdout": path}, **order) as logger:
        logger.write(b"line\n")
        return str(wait_for(lambda: logger.report()["troubles"].get(str(path)), what="it says what is wrong"))


@pytest.mark.parametrize("backups", [0, 2])
def test_a_directory_that_the_user_may_not_write_to_is_named_as_that(stranger_s_home: Path, backups: int) -> None:
    stranger_s_home.chmod(0o555)
    assert told(stranger_s_home / "log", backups=backups, spec=STRANGER) == "Permission denied"


def test_what_is_no_file_to_write_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    assert told(tmp_path / "link") == "it is a link, and links are not followed"
    assert told(tmp_path / "fifo") == told(Path("/dev/zero")) == "it is no regular file"


def unpacked(directory: Path) -> list[bytes]:
    """Return the lines of all backups, oldest first, and of the file."""
    found = []
    for file in sorted(directory.glob("log.*"), key=lambda file: -int(file.name.split(".")[1])):
        found += (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).splitlines()
    return found + lines_of(directory / "log")


def test_backups_are_compressed_and_keep_every_line(tmp_path: Path) -> None:
    sent = numbered(5000)
    with logger_process(files={"stdout": tmp_path / "log"}, max_bytes=30_000, backups=20, compress=True) as logger:
        logger.write(text(sent))
        wait_for(lambda: len(list(tmp_path.glob("log.*.gz"))) == 3, what="three backups are compressed")
        wait_for(lambda: not packers(logger.pid), what="nothing is being compressed")
        assert logger.end() == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1.gz", "log.2.gz", "log.3.gz"]
    assert unpacked(tmp_path) == sent
    assert (tmp_path / "log.1.gz").stat().st_mode & 0o777 == 0o640


def test_a_rotation_waits_for_no_compression_and_loses_nothing_to_one(tmp_path: Path) -> None:
    """The compressing process is stopped; its backup moves on meanwhile, and is found again."""
    first, more = numbered(2000), numbered(4000, 2000)
    with logger_process(files={"stdout": tmp_path / "log"}, max_bytes=30_000, backups=20, compress=True) as logger:
        frozen: set[int] = set()
        logger.write(text(first))
        wait_for(lambda: (tmp_path / "log.1.gz").exists(), what="the first is compressed")
        endless(tmp_path / "log.7")
        logger.order(compress=False)
        logger.order(compress=True)
        frozen.add(wait_for(lambda: next(iter(packers(logger.pid)), 0), what="it is being compressed"))
        stand_still(next(iter(frozen)))
        logger.write(text(more))
        wait_for(lambda: (tmp_path / "log.9").exists(), what="it has moved on")
        os.truncate(tmp_path / "log.9", 0)
        os.kill(next(iter(frozen)), signal.SIGCONT)
        packed(tmp_path / "log.9")
        wait_for(lambda: not [file for file in tmp_path.glob("log.*") if file.suffix != ".gz"], what="all are")
        assert logger.end() == 0
    (tmp_path / "log.9.gz").unlink()
    assert unpacked(tmp_path) == first + more


def test_a_compression_that_was_cut_short_is_begun_anew_by_the_next_logger(tmp_path: Path) -> None:
    backup = tmp_path / "log.1"
    endless(backup)
    with logger_process(files={"stdout": tmp_path / "log"}, max_bytes=30_000, backups=2, compress=True) as logger:
        packer = wait_for(lambda: next(iter(packers(logger.pid)), 0), what="it is being compressed")
        wait_for(lambda: Path(f"/proc/{packer}/comm").read_text() == "log gzip\n", what="it will go with the logger")
        stand_still(packer)
        os.kill(logger.pid, signal.SIGKILL)
        logger.wait()
        wait_for(lambda: not Path(f"/proc/{packer}").exists(), what="it took the process along")
        assert backup.exists()
        backup.write_bytes(text(numbered(2000)))
        logger.start(again=True)
        packed(backup)
    assert gzip.decompress((tmp_path / "log.1.gz").read_bytes()) == text(numbered(2000))
    assert [file.name for file in tmp_path.glob("*part*")] == []


def test_a_compression_that_cannot_begin_costs_no_descriptor_and_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.gz-part").mkdir()  # as a full disk would, it keeps the file from being made
    with logger_process(files={"stdout": tmp_path / "log"}, max_bytes=100, backups=2, compress=True) as logger:
        for number in range(20):
            logger.write(text(numbered(5, 5 * number)))
        wait_for(lambda: logger.report()["lines"].get("stdout") == 100, what="all lines are written")
        assert [path for path in opened(logger) if path.match("log.*")] == []
    assert capfd.readouterr().err.count("is not compressed") == 1


def test_compressions_that_fail_for_want_of_room_cost_one_line_and_leave_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    order: dict[str, Any] = {"max_bytes": 10_000, "backups": 2, "compress": True}
    with tiny_disk(tmp_path / "disk", 1 << 16) as disk:
        (disk / "log.1").write_bytes(os.urandom(40_000))
        file = LogFile(os.fsencode(disk / "log"))
        for _ in range(3):
            file.obey(order)  # begins
            file.reaped(*os.waitpid(-1, 0))
        assert [file.name for file in disk.iterdir()] == ["log.1"]
    assert capfd.readouterr().err.count("is not compressed: No space left on device") == 1


def test_compression_runs_at_the_lowest_priority(tmp_path: Path) -> None:
    endless(tmp_path / "log.1")
    with logger_process(files={"stdout": tmp_path / "log"}, max_bytes=30_000, backups=2, compress=True) as logger:
        packer = wait_for(lambda: next(iter(packers(logger.pid)), 0), what="it is being compressed")
        wait_for(lambda: os.sched_getscheduler(packer) == os.SCHED_IDLE, what="it yields to every other process")
        assert os.getpriority(os.PRIO_PROCESS, packer) == 19


@pytest.mark.parametrize("overflow", ["wait", "drop"])
def test_one_logger_writes_root_s_file_as_root_and_the_user_s_as_that_user(overflow: str) -> None:
    """A link that the user puts in the place of theirs leads nowhere that they may not write."""
    if os.geteuid():
        pytest.skip("only root can start programs as another user")
    stranger = STRANGER["uid"]
    with (
        tempfile.TemporaryDirectory(prefix="highlander-test-", dir="/var/log") as ours,
        tempfile.TemporaryDirectory(prefix="highlander-test-") as theirs,
    ):
        canary = Path(ours) / "canary"
        canary.write_text("root's\n")
        os.chown(theirs, stranger, stranger)
        files = {"stdout": Path(ours) / "log", "stderr": Path(theirs) / "log"}
        with logger_process(files=files, overflow=overflow, spec=STRANGER) as logger:
            logger.write(b"out\n")
            logger.write(b"err\n", "stderr")
            wait_for(
                lambda: all(path.exists() and path.stat().st_size for path in files.values()), what="both are there"
            )
            assert [path.stat().st_uid for path in files.values()] == [0, stranger]
            files["stderr"].unlink()
            files["stderr"].symlink_to(canary)
            logger.send(signal.SIGUSR1)

            def refused() -> bool:
                logger.write(b"more\n", "stderr")  # what is written before the signal arrives goes into the old file
                return str(files["stderr"]) in logger.report()["troubles"]

            wait_for(refused, what="it says that it cannot write")
        assert canary.read_text() == "root's\n"
