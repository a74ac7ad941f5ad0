"""Claims about the daemon's own log: the same keys always, priorities for the journal only, no line lost to a bug."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from highlanderd.output.log import log_through
from highlanderd.system.linux import on_journal
from tests.support.output import writing_to


@contextmanager
def logging_to(path: Path, form: Literal["text", "json"], *, journal: str | None = None) -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with writing_to(path) as writer:
            log_through(writer, "info", form, journal=journal)
            yield logging.getLogger("highlanderd.program")
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


def some_lines(log: logging.Logger) -> None:
    log.debug("not shown")
    log.info("beat leads", extra={"program": "beat", "state": "leading", "epoch": 7})
    log.warning("%d sessions lost", 3)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("it broke")


def test_json_lines_have_the_same_keys_always(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log", "json") as log:
        some_lines(log)
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {tuple(record) for record in records} == {
        ("time", "level", "logger", "program", "state", "epoch", "message", "error")
    }
    assert [record["message"] for record in records] == ["beat leads", "3 sessions lost", "it broke"]
    assert records[0]["program"] == "beat"
    assert records[0]["epoch"] == 7
    assert records[1]["program"] is None
    assert "ValueError: two" in records[2]["error"]


def test_text_lines_begin_with_time_and_level(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log", "text") as log:
        some_lines(log)
    lines = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    beat leads \[program=beat state=leading epoch=7\]", lines[0]
    )
    assert lines[1].endswith("Z WARNING 3 sessions lost")
    assert lines[3].startswith("    Traceback")
    assert all(line.startswith("    ") for line in lines[3:])


def test_the_journal_gets_a_priority_before_every_line(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log", "text", journal=str(tmp_path / "none")) as log:
        some_lines(log)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "<6>beat leads [program=beat state=leading epoch=7]"
    assert lines[1] == "<4>3 sessions lost"
    assert len(lines) > 4
    assert all(line.startswith("<3>") for line in lines[2:])


def test_a_wrong_format_string_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path / "log", "text") as log:
        log.info("%d", "not a number")
        log.info("still here")
    assert (tmp_path / "log").read_text().endswith("still here\n")
    assert "not a number" in capsys.readouterr().err


def test_only_the_very_stream_of_the_journal_is_taken_for_it(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        assert on_journal(stream.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not on_journal(stream.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        assert not on_journal(stream.fileno(), {})


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("journal", [None, "/none/such"])
def test_no_word_of_another_clears_a_screen_or_feigns_a_line(
    tmp_path: Path, form: Literal["text", "json"], journal: str | None
) -> None:
    path = "/v1/programs/\x1b[2J\r\nFAKE LINE\u202e\x9b/stop"
    with logging_to(tmp_path / "log", form, journal=journal) as log:
        log.info("ordered: %s %s", "POST", path, extra={"program": "a\nFAKE"})
        log.error("the server says: %s", ValueError("two\nlines\x1b"))
    text = (tmp_path / "log").read_text()
    said = [json.loads(line.lstrip("<346>"))["message"] for line in text.splitlines()] if form == "json" else [text]
    assert all(message.replace("\n", "").isprintable() for message in said)
    assert "/v1/programs/\\x1b[2J\\r\\nFAKE LINE\\u202e\\x9b/stop" in said[0]
    if form == "text":
        assert not any(re.match(r"(<\d>)?(FAKE|lines)", line) for line in text.splitlines())


def test_the_journals_own_socket_gets_what_happened_to_whom_as_fields(tmp_path: Path) -> None:
    address = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(address)
        with logging_to(tmp_path / "log", "text", journal=address) as log:
            facts = {"program": "beat", "state": "draining", "epoch": 7, "event": "fenced"}
            log.error("beat: two\nlines", extra=facts)
            log.info("nothing of a program")
        first, second = [_fields(journal.recv(65536)) for _ in range(2)]
    assert (tmp_path / "log").read_bytes() == b""
    assert first["MESSAGE"] == "beat: two\n    lines [program=beat state=draining epoch=7]"
    assert (first["PRIORITY"], first["HIGHLANDER_PROGRAM"], first["HIGHLANDER_EPOCH"]) == ("3", "beat", "7")
    assert first["HIGHLANDER_EVENT"] == "fenced"
    assert second["PRIORITY"] == "6"
    assert "HIGHLANDER_PROGRAM" not in second


def _fields(datagram: bytes) -> dict[str, str]:
    """Read systemd's native protocol, the form with lengths."""
    fields = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        size = int.from_bytes(rest[:8], "little")
        fields[name.decode()] = rest[8 : 8 + size].decode()
        datagram = rest[8 + size + 1 :]
    return fields


def test_lines_for_machines_have_their_priority_in_the_journals_stream(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log", "json", journal=str(tmp_path / "none")) as log:
        log.warning("lost")
    line = (tmp_path / "log").read_text()
    assert line.startswith("<4>{")
    assert json.loads(line[3:])["message"] == "lost"
