"""Each kind of value is understood as people write it, and refused with what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from highlanderd.config import values
from highlanderd.config.dsn import options, redacted
from highlanderd.config.expansion import WrittenText, absolute, expand


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("2h", 7200.0),
        ("1d12h", 129600.0),
        ("0s", 0.0),
        ("10", 10.0),
        (10, 10.0),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_seconds(written: object, seconds: float) -> None:
    assert values.duration(written) == seconds


@pytest.mark.parametrize(
    ("written", "size"),
    [("50MB", 50_000_000), ("1GiB", 2**30), ("10kb", 10_000), ("64 MiB", 2**26), ("7B", 7), (4096, 4096), (0, 0)],
)
def test_a_size_is_bytes(written: object, size: int) -> None:
    assert values.size(written) == size


@pytest.mark.parametrize(("written", "bits"), [("022", 18), ("0o660", 0o660), (0o027, 23), ("0", 0), (0o777, 511)])
def test_a_mode_is_octal(written: object, bits: int) -> None:
    assert values.octal(written) == bits


@pytest.mark.parametrize(
    ("written", "number"),
    [("TERM", 15), ("SIGINT", 2), ("usr1", 10), (15, 15), ("9", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)],
)
def test_a_signal_has_a_number(written: object, number: int) -> None:
    assert values.signal_number(written) == number


WRONG: Final[Mapping[Callable[[object], object], tuple[object, ...]]] = {
    values.duration: ("", "10 sec", "1s1m", "-1s", "s", -1, True, float("nan"), [], "367d"),
    values.size: ("50M", "MB", "1.5GB", -1, True, ""),
    values.octal: ("9", "rw", 22, 77, 512, -1, True, "1777", ""),
    values.signal_number: ("TERMINATE", 0, 65, True, "STOP", "CONT", "", "²", "RTMIN+31", "RTMAX-60", "RTMIN+"),
    values.web_address: ("", "web-1:9841", "http://", "ftp://a", "http://a/b", "http://a b", "http://a\u202e", 3),
    values.output: ("none", "", "beat.log", 3),
    values.account: ("", "a b", -1, True, "a:b", 2**32 - 1, "4294967295", 2**64, "9" * 5000),
    values.variable: ("", "A=B", "A B", 3),
    values.label: ("", "a/b", "-a", ".", "ä", "a" * 64, 3),
    values.exit_code: (256, -1, True, "0"),
    values.count: (-1, 1001, True, "1"),
    values.flag: ("yes", 1, None),
    values.text: (1, "a\0b"),
}


@pytest.mark.parametrize(("kind", "wrong"), [(kind, wrong) for kind, all_wrong in WRONG.items() for wrong in all_wrong])
def test_what_is_meant_otherwise_is_refused_with_a_cure(kind: Callable[[object], object], wrong: object) -> None:
    with pytest.raises(ValueError, match=r"; (write|remove|leave)|; a path holds a slash"):
        kind(wrong)


def test_an_integer_that_was_meant_as_octal_digits_is_not_taken_for_one() -> None:
    with pytest.raises(ValueError, match="22 is not an octal mode"):
        values.octal(22)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${A}", "one"),
        ("x${A}y${A}", "xoneyone"),
        ("${NOPE:-two}", "two"),
        ("${NOPE:-}", ""),
        ("${EMPTY:-three}", "three"),
        ("${EMPTY}", ""),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$one"),
        ("$A $( $", "$A $( $"),
        ("${TRICKY}", "${A}"),
    ],
)
def test_variables_are_expanded_once(text: str, expanded: str) -> None:
    assert expand(text, {"A": "one", "EMPTY": "", "TRICKY": "${A}"}) == expanded


@pytest.mark.parametrize("text", ["${", "${A", "${}", "${A-b}", "${A:?b}", "${1A}", "${A:-${B}}", "${f%.txt}"])
def test_other_braces_are_refused_with_the_way_to_a_literal_dollar(text: str) -> None:
    with pytest.raises(ValueError, match=r"\$\$\{"):
        expand(text, {"A": "1"})


def test_an_unset_variable_is_named_but_nothing_around_it() -> None:
    with pytest.raises(ValueError, match="PASSWORD is not set") as refused:
        expand("host=db password=hunter2${PASSWORD}", {})
    assert "hunter2" not in str(refused.value)


def test_a_relative_path_starts_beside_the_file_that_says_so() -> None:
    written = WrittenText("../state", Path("/etc/highlander"), {})
    assert absolute(written, written.beside) == Path("/etc/state")
    assert absolute("/var/../run", written.beside) == Path("/run")


def test_a_home_directory_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="not expanded"):
        absolute("~/state", Path("/etc"))


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:hunter2@[db/ops",
        "postgresql://u:hunter2@db/ops?hunter2=1&x",
        "host=db password=hunter1 hunter2",
        "host=db password='hunter2",
        "postgresql://u:%zzhunter2@db/ops",
    ],
)
def test_a_bad_connection_string_is_refused_without_its_password(dsn: str) -> None:
    with pytest.raises(ValueError, match="libpq cannot read it") as refused:
        options(dsn)
    assert "hunter" not in str(refused.value)


def test_the_name_of_an_unknown_option_is_shown() -> None:
    assert redacted('invalid URI query parameter: "target"', "postgresql://db/ops?target=x").endswith('"target"')
