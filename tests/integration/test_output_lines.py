"""Claims about children's lines: stamped, named or as JSON; waited for or dropped; and kept for those who ask."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from highlanderd.guardian.log_pipe import held
from highlanderd.guardian.log_shape import Stamps, shape_of
from tests.support.loggers import logged, logger_process
from tests.support.wait import wait_for

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@contextmanager
def daemon_streams() -> Iterator[tuple[tuple[int, int], int, int]]:
    """Return what a logger has as standard output and error, and what reads it."""
    out, stdout = os.pipe()
    err, stderr = os.pipe()
    try:
        yield (stdout, stderr), out, err
    finally:
        for fd in (out, stdout, err, stderr):
            os.close(fd)


def read(fd: int, size: int) -> bytes:
    """Read so many bytes."""
    data = b""
    while len(data) < size and select.select([fd], [], [], 60)[0]:
        data += os.read(fd, size - len(data))
    return data


def test_inherited_lines_bear_their_program_s_name_and_keep_their_stream() -> None:
    with daemon_streams() as (daemon, out, err), logger_process(daemon, inherit=["stdout", "stderr"]) as logger:
        logger.write(b"one\n\ntwo\n")
        logger.write(b"trouble\n", "stderr")
        logger.write(b"no end")
        assert logger.end() == 0
        assert os.read(out, 1000) == b"beat: one\nbeat: \nbeat: two\nbeat: no end\n"
        assert os.read(err, 1000) == b"beat: trouble\n"


def test_stamps_stand_before_the_name_and_without_one_in_a_file(tmp_path: Path) -> None:
    with (
        daemon_streams() as (daemon, out, _),
        logger_process(daemon, inherit=["stdout"], files={"stderr": tmp_path / "log"}, timestamps=True) as logger,
    ):
        logger.write(b"one\ntwo\n")
        logger.write(b"trouble\n", "stderr")
        assert logger.end() == 0
        assert re.fullmatch(f"{STAMP} beat: one\n{STAMP} beat: two\n", os.read(out, 1000).decode())
    assert re.fullmatch(f"{STAMP} trouble\n", (tmp_path / "log").read_text())


def test_a_stamp_is_rfc_3339_in_utc_to_the_millisecond() -> None:
    stamps = Stamps()
    assert stamps.at(0.0) == b"1970-01-01T00:00:00.000Z"
    assert stamps.at(1_790_000_000.9996) == b"2026-09-21T14:13:20.999Z"
    assert stamps.at(1_790_000_001.0) == b"2026-09-21T14:13:21.000Z"


def test_a_json_line_says_when_who_and_where_from_whatever_is_in_it(tmp_path: Path) -> None:
    said = [b"plain", b"", b'"quoted" \\ back', b"\ttab \x1b[31mred\x1b[0m\r", "ünïcode \U0001f600".encode()]
    logged(b"\n".join(said) + b"\nno \xff utf-8\n", tmp_path / "log", format="json")
    objects = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [each["line"].encode() for each in objects[:-1]] == said
    assert objects[-1]["line"] == "no \N{REPLACEMENT CHARACTER} utf-8"
    for each in objects:
        assert list(each) == ["time", "program", "epoch", "stream", "line"]
        assert re.fullmatch(STAMP, each["time"])
        assert (each["program"], each["epoch"], each["stream"]) == ("beat", 3, "stdout")


def test_every_control_character_survives_json() -> None:
    shape = shape_of({"program": "beat", "epoch": 1, "log": {"format": "json"}}, "stdout")
    assert shape is not None
    line = bytes(code for code in range(128) if code != 0x0A)
    assert json.loads(bytes(shape(memoryview(line), 0.0)[0]))["line"].encode() == line


@pytest.mark.parametrize("length", [0, 1, 30, 70, 500])
@pytest.mark.parametrize(
    "order", [{}, {"timestamps": True}, {"format": "json"}], ids=lambda order: "".join(order) or "plain"
)
def test_lines_are_counted_however_long_they_are_and_whatever_their_shape(
    tmp_path: Path, length: int, order: dict[str, Any]
) -> None:
    """Each block is counted in the way that is the fastest for its lines: here they get longer in the middle of one."""
    lines = [b"\"'" + b"\t" * (length * (1 + number % 3)) for number in range(3000)]
    with logger_process(files={"stdout": tmp_path / "log"}, **order) as logger:
        logger.write(b"\n" * 3000 + b"\n".join(lines) + b"\nno end")
        assert logger.end() == 0
        assert logger.report()["lines"] == {"stdout": 6001}
        assert logger.report()["number"] == 6001


def test_inherited_json_lines_have_no_prefix() -> None:
    with daemon_streams() as (daemon, out, _), logger_process(daemon, inherit=["stdout"], format="json") as logger:
        logger.write(b"one\n")
        assert logger.end() == 0
        assert json.loads(os.read(out, 1000))["line"] == "one"


def test_without_stamps_a_file_gets_the_very_bytes_of_the_child(tmp_path: Path) -> None:
    junk = bytes(range(256)) * 4096 + b"no end"
    logged(junk, tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == junk


def test_long_lines_come_in_pieces_and_lose_nothing() -> None:
    sent = b"x" * 300_000 + b"\nshort\n" + b"y" * 65_536 + b"\n"
    with daemon_streams() as (daemon, out, _), logger_process(daemon, inherit=["stdout"]) as logger:
        written = threading.Thread(target=logger.write, args=(sent,))
        written.start()
        found = b""
        while found.replace(b"beat: ", b"").replace(b"\n", b"") != sent.replace(b"\n", b""):
            assert select.select([out], [], [], 60)[0], f"{len(found)} bytes came"
            found += os.read(out, 65536)
        written.join()
    assert all(line.startswith(b"beat: ") for line in found.splitlines())


def test_a_line_without_its_end_is_passed_on_after_a_while() -> None:
    with daemon_streams() as (daemon, out, _), logger_process(daemon, inherit=["stdout"]) as logger:
        logger.write(b"password? ")
        assert read(out, 17) == b"beat: password? \n"
        logger.write(b"wrong\n")
        assert read(out, 12) == b"beat: wrong\n"


def test_a_slow_reader_costs_no_line_and_the_child_waits() -> None:
    sent = b"".join(b"line number %06d\n" % number for number in range(200_000))
    with daemon_streams() as (daemon, out, _), logger_process(daemon, inherit=["stdout"]) as logger:
        fcntl.fcntl(daemon[0], fcntl.F_SETPIPE_SZ, 4096)
        child = threading.Thread(target=logger.write, args=(sent,))
        child.start()
        wait_for(lambda: held(logger.reads["stdout"]) > 900_000, what="the pipe is full")
        assert child.is_alive()
        found = read(out, len(sent) + 6 * 200_000)
        child.join()
    assert found.replace(b"beat: ", b"") == sent


def test_with_drop_a_reader_that_takes_nothing_keeps_no_child_waiting() -> None:
    with daemon_streams() as (daemon, out, _), logger_process(daemon, inherit=["stdout"], overflow="drop") as logger:
        lines = [b"line number %06d" % number for number in range(200_000)]
        logger.write(b"".join(line + b"\n" for line in lines))  # three times what the pipe holds
        wait_for(lambda: logger.report()["dropped"].get("stdout"), what="it says that it has dropped some")
        os.close(logger.writes.pop("stdout"))
        found = b""
        while not found.endswith(b"beat: line number 199999\n"):
            assert select.select([out], [], [], 60)[0]
            found += os.read(out, 65536)
        assert logger.wait() == 0
        dropped = logger.report()["dropped"]["stdout"]
    told = [int(number) for number in re.findall(rb"^beat: \[highlanderd: (\d+) lines dropped", found, re.MULTILINE)]
    assert sum(told) == dropped
    kept = [line.removeprefix(b"beat: ") for line in found.splitlines() if b"dropped here" not in line]
    assert len(kept) + dropped == len(lines)
    assert kept == sorted(kept)


def test_a_child_that_reads_its_own_pipe_does_not_hang_its_logger() -> None:
    """It can open /proc/self/fd/1, and take out what the logger has seen in the pipe."""
    with daemon_streams() as (daemon, out, _), logger_process(daemon, inherit=["stdout"]) as logger:
        logger.write(b"a line of some length\n" * 8000)
        wait_for(lambda: held(out) > 60_000, what="its reader is slow, and it waits in the middle")
        os.read(logger.reads["stdout"], 1 << 20)
        os.close(logger.writes.pop("stdout"))

        def ended() -> bool:
            if held(out):
                os.read(out, 1 << 20)
            return logger.process.poll() == 0

        wait_for(ended, what="it ends with the pipe")


def test_a_reader_that_is_gone_is_reported_and_keeps_no_child_waiting() -> None:
    out, stdout = os.pipe()
    os.close(out)
    with logger_process((stdout, 2), inherit=["stdout"]) as logger:
        logger.write(b"line\n" * 1_000_000)
        wait_for(lambda: logger.report()["troubles"] == {"standard output": "Broken pipe"}, what="it says so")
    os.close(stdout)


def test_another_order_holds_for_the_lines_that_follow(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with logger_process(files={"stdout": path}) as logger:
        logger.write(b"plain\n")
        wait_for(lambda: path.exists() and path.read_bytes() == b"plain\n", what="it is written")
        logger.order(format="json")

        def is_json() -> bool:
            logger.write(b"more\n")
            return b'"line": "more"' in path.read_bytes()

        wait_for(is_json, what="lines come as JSON")
        logger.order(format="text", max_bytes=100, backups=1)

        def is_rotated() -> bool:
            logger.write(b"more\n")
            return (tmp_path / "log.1").exists()

        wait_for(is_rotated, what="it is rotated")


def test_another_overflow_is_another_logger_s_and_no_line_is_lost(tmp_path: Path) -> None:
    with logger_process(files={"stdout": tmp_path / "log"}) as logger:
        logger.write(b"one\n")
        wait_for((tmp_path / "log").exists, what="it is written")
        logger.order(overflow="drop")
        assert logger.wait() == 75
        logger.write(b"two\n")
        logger.start()
        assert logger.end() == 0
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def test_reopening_makes_the_file_at_once_and_says_what_has_failed(tmp_path: Path) -> None:
    path = tmp_path / "home" / "log"
    path.parent.mkdir()
    with logger_process(files={"stdout": path}) as logger:
        logger.write(b"before\n")
        wait_for(path.exists, what="it is written")
        path.rename(tmp_path / "moved")
        logger.send(signal.SIGUSR1)
        wait_for(lambda: logger.report()["reopened"] == 1, what="it has reopened")
        assert path.read_bytes() == b""
        logger.write(b"after\n")
        wait_for(lambda: path.read_bytes() == b"after\n", what="it goes on there")
        path.unlink()
        path.parent.rmdir()
        logger.send(signal.SIGUSR1)
        wait_for(lambda: logger.report()["reopened"] == 2, what="it has tried")
        assert logger.report()["troubles"] == {str(path): "No such file or directory"}


@pytest.mark.parametrize("overflow", ["wait", "drop"])
def test_a_logger_with_a_thread_and_one_without_write_the_same(tmp_path: Path, overflow: str) -> None:
    sent = b"".join(b"line number %06d\n" % number for number in range(20_000))
    logged(sent, tmp_path / "log", overflow=overflow, max_bytes=100_000, backups=10)
    files = [*sorted(tmp_path.glob("log.*"), key=lambda file: -int(file.suffix[1:])), tmp_path / "log"]
    assert b"".join(file.read_bytes() for file in files) == sent


def test_the_last_lines_are_kept_with_number_time_and_stream() -> None:
    with daemon_streams() as (daemon, _, _), logger_process(daemon, inherit=["stdout", "stderr"]) as logger:
        logger.write(b"".join(b"%d\n" % number for number in range(1, 301)))
        wait_for(lambda: logger.report()["number"] == 300, what="all are counted")
        logger.write(b"\xff" * 5000 + b"\n", "stderr")
        wait_for(lambda: logger.report()["number"] == 301, what="all are counted")
        report = logger.report()
        assert [line[0] for line in report["last"]] == list(range(102, 302))
        assert [line[2] for line in report["last"]] == ["stdout"] * 199 + ["stderr"]
        assert report["last"][0][3] == b"102"
        assert report["last"][-1][3] == b"\xff" * 1000
        assert report["bytes"] == {"stdout": 1092, "stderr": 5001}


def test_with_drop_a_disk_that_takes_all_gets_all_however_fast_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    block = b"".join(b"line number %06d\n" % number for number in range(50_000))
    with logger_process(files={"stdout": path, "stderr": path}, overflow="drop") as logger:
        flood = threading.Thread(target=logger.write, args=(60 * block, "stderr"))
        flood.start()
        logger.write(60 * block)
        flood.join()
        assert logger.end() == 0
        assert logger.report()["dropped"] == {"stdout": 0, "stderr": 0}
    assert path.stat().st_size == 120 * len(block)
