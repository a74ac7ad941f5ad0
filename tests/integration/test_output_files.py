"""Claims about log files: rotation keeps every line, and a full disk is told once and kills nobody."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.output import writing
from tests.support.wait import wait_for


def lines_of(*paths: Path) -> list[bytes]:
    return [line for path in paths for line in path.read_bytes().splitlines()]


def test_rotation_keeps_every_line_in_order_and_no_file_outgrows_its_size(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sent = [b"line number %06d" % number for number in range(300)]
    with writing() as writer:
        for line in sent:
            writer.file(path, 1000, 9).offer(line + b"\n", 1)
    files = [*(tmp_path / f"log.{n}" for n in range(9, 0, -1) if (tmp_path / f"log.{n}").exists()), path]
    assert len(files) > 3
    assert all(file.stat().st_size <= 1000 for file in files)
    assert lines_of(*files) == sent


def test_rotation_keeps_no_more_backups_than_asked_for(tmp_path: Path) -> None:
    with writing() as writer:
        for number in range(1000):
            writer.file(tmp_path / "log", 1000, 2).offer(b"line number %06d\n" % number, 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert lines_of(tmp_path / "log")[-1] == b"line number 000999"


def test_without_backups_the_file_starts_afresh(tmp_path: Path) -> None:
    with writing() as writer:
        for number in range(1000):
            writer.file(tmp_path / "log", 1000, 0).offer(b"line number %06d\n" % number, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["log"]
    assert (tmp_path / "log").stat().st_size <= 1000
    assert lines_of(tmp_path / "log")[-1] == b"line number 000999"


def test_an_existing_file_counts_towards_its_size(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"o" * 990 + b"\n")
    with writing() as writer:
        writer.file(tmp_path / "log", 1000, 1).offer(b"does not fit any more\n", 1)
    assert (tmp_path / "log").read_bytes() == b"does not fit any more\n"
    assert (tmp_path / "log.1").stat().st_size == 991


def test_a_blob_larger_than_a_file_is_spread_over_files_at_line_ends(tmp_path: Path) -> None:
    sent = [b"line number %06d" % number for number in range(100)]
    with writing() as writer:
        writer.file(tmp_path / "log", 500, 9).offer(b"".join(line + b"\n" for line in sent), 100)
    files = [tmp_path / f"log.{n}" for n in range(9, 0, -1) if (tmp_path / f"log.{n}").exists()]
    assert lines_of(*files, tmp_path / "log") == sent


def test_a_file_that_somebody_moved_away_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with writing() as writer:
        sink = writer.file(path, 0, 0)
        sink.offer(b"before\n", 1)
        wait_for(lambda: path.exists() and path.read_bytes() == b"before\n")
        path.rename(tmp_path / "log.old")
        sent = 0

        def arrives() -> bool:
            nonlocal sent
            sent += sink.offer(b"after\n", 1)
            return path.exists()

        wait_for(arrives)
    written = lines_of(tmp_path / "log.old", path)
    assert written == [b"before"] + [b"after"] * sent


def test_an_unused_file_is_closed(tmp_path: Path) -> None:
    def open_files() -> list[Path]:
        found = []
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # it was closed just now
                found.append(entry.readlink())
        return found

    path = tmp_path / "log"
    with writing() as writer:
        writer.file(path, 0, 0).offer(b"seldom\n", 1)
        wait_for(lambda: path.exists() and path.read_bytes() == b"seldom\n")
        wait_for(lambda: path not in open_files())
        writer.file(path, 0, 0).offer(b"again\n", 1)
    assert path.read_bytes() == b"seldom\nagain\n"


def test_a_full_disk_is_told_once_and_the_other_files_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), writing() as writer:
        full = writer.file(Path("/dev/full"), 1000, 3)
        for _ in range(100):
            full.offer(b"lost\n", 1)
        wait_for(lambda: "No space left on device" in caplog.text)
        writer.file(tmp_path / "log", 0, 0).offer(b"written\n", 1)
        wait_for(lambda: (tmp_path / "log").exists())
        tried = full.try_at
        full.offer(b"lost\n", 1)
        wait_for(lambda: full.try_at > tried)  # it was tried once more
    told = [record for record in caplog.records if "No space left" in record.getMessage()]
    assert len(told) == 1
    assert "/dev/full" in told[0].getMessage()


def test_what_failed_for_a_while_is_written_once_it_works_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "not yet" / "log"
    with caplog.at_level(logging.INFO), writing() as writer:
        sink = writer.file(path, 0, 0)
        for number in range(10):
            sink.offer(b"%d\n" % number, 1)
        wait_for(lambda: "No such file or directory" in caplog.text)
        path.parent.mkdir()
        wait_for(lambda: path.exists() and len(lines_of(path)) == 10)
    assert lines_of(path) == [b"%d" % number for number in range(10)]
    assert "takes output again" in caplog.text


def test_a_reader_that_is_gone_is_told_and_kills_nobody(caplog: pytest.LogCaptureFixture) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with caplog.at_level(logging.INFO), writing() as writer:
        writer.descriptor(write_end, "standard output").offer(b"hello?\n", 1)
        wait_for(lambda: "cannot write to standard output: Broken pipe" in caplog.text)
    os.close(write_end)


def test_a_fifo_without_a_reader_is_an_error_and_no_hanging_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with caplog.at_level(logging.INFO), writing() as writer:
        writer.file(tmp_path / "fifo", 0, 0).offer(b"hello?\n", 1)
        wait_for(lambda: "cannot write to" in caplog.text)
        writer.file(tmp_path / "log", 0, 0).offer(b"alive\n", 1)
        wait_for(lambda: (tmp_path / "log").exists())


def test_a_rotation_that_fails_loses_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "log.1").mkdir()  # cannot be replaced by a file
    with caplog.at_level(logging.INFO), writing() as writer:
        for number in range(200):
            writer.file(tmp_path / "log", 1000, 1).offer(b"line number %06d\n" % number, 1)
    assert len(lines_of(tmp_path / "log")) == 200
    assert caplog.text.count("cannot rotate") == 1


def test_lines_offered_from_many_threads_all_arrive(tmp_path: Path) -> None:
    with writing() as writer:
        sink = writer.file(tmp_path / "log", 0, 0)
        threads = [
            threading.Thread(target=lambda n=n: [sink.offer(b"%d %d\n" % (n, m), 1) for m in range(500)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    written = lines_of(tmp_path / "log")
    assert sorted(written) == sorted(b"%d %d" % (n, m) for n in range(4) for m in range(500))
