"""Whatever bytes others write: an environment file sets what its lines say or is refused, and text keeps its line."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from highlanderd.config.environment import parsed_environment
from highlanderd.errors import HighlanderError, one_line, printable
from highlanderd.output.log import JournalLines, PlainLines, TextLines

PIECES = (b"A", b"b_1", b"=", b"'", b'"', b"\\", b"\n", b"\r", b"\r\n", b" ", b"\t", b"#", b"export ", b"\0", b"\x85")
MORE = (b"\xff", "\u2028\u202e\ufeff".encode(), b"\xef\xbb\xbf", b"\x1b[2J", b"\x0b\x0c", b"$(x)")
FILES = st.lists(st.sampled_from(PIECES + MORE) | st.binary(max_size=4), max_size=30).map(b"".join)
TEXTS = st.text(max_size=50) | st.text(st.sampled_from("a\n\r\t\x1b\x9b\u2028\u202e\ud800"), max_size=20)


@given(FILES)
@example(b"\xef\xbb\xbfA=1\r\nB=2\r")
def test_an_environment_file_sets_no_more_than_a_variable_a_line_and_only_what_exec_takes(content: bytes) -> None:
    with suppress(HighlanderError):
        found = parsed_environment(Path("env"), content)
        assert len(found) <= content.count(b"=")
        assert len(found) <= content.count(b"\n") + 1
        for name, value in found.items():
            assert name
            assert not {"=", "\0", "\n"} & set(name)
            assert not {"\0", "\n"} & set(value)
            assert os.fsencode(name) in content
            assert os.fsencode(value) in content or b"\\" in content, "only an escape leaves something out"


@given(TEXTS)
def test_what_is_made_printable_is_and_what_was_stays(text: str) -> None:
    assert printable(text).replace("\n", "").replace("\t", "").isprintable()
    assert len(one_line(text).splitlines()) <= 1
    assert printable(printable(text)) == printable(text)
    if text.isprintable():
        assert one_line(text) == text


@given(TEXTS, TEXTS)
def test_no_log_line_begins_with_a_word_of_another(first: str, second: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s says %s", (f"\n{first}", ValueError(second)), None)
    for lines, begins in ((TextLines(), "20"), (JournalLines(PlainLines()), "<6>")):
        head, *rest = lines.format(record).split("\n")
        assert head.startswith(begins)
        assert all(line.removeprefix("<6>").startswith("    ") for line in rest)
        assert all(line.replace("\t", "").isprintable() for line in (head, *rest))
