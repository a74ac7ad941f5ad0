"""The pages of measurements name what could not be measured, once and where its figures would stand."""

from __future__ import annotations

from tests.benchmarks.pages import performance, scale
from tests.benchmarks.results import OURS, Sample

SAMPLES = [
    Sample("start", "command to first child", OURS, 1, "ms", (500.0, 600.0), 0.5),
    Sample("led", "CPU", "supervisord", 10, "% of a core", (0.2,), 0.5),
]
LACKS = [
    {"part": "start", "who": "circus", "lacks": "it could not be fetched from PyPI"},
    {"part": "node stopped", "who": OURS, "lacks": "there is no C compiler for the child"},
    {"part": "led", "who": "circus", "lacks": "it could not be fetched from PyPI"},
    {"part": "led", "who": "circus", "lacks": "it could not be fetched from PyPI"},
]


def test_the_page_about_one_program_says_what_lacks_even_where_nothing_was_measured() -> None:
    *_, start, _, lacks, title, without = performance({}, SAMPLES, LACKS)
    assert start == "### From the command to the first child"
    assert lacks == "Not measured: circus, because it could not be fetched from PyPI."
    assert (title, without) == (
        "### A node that leads 100 programs is stopped",
        "Not measured: highlanderd, because there is no C compiler for the child.",
    )


def test_the_page_about_many_programs_says_it_once_however_many_sizes_lack_it() -> None:
    *_, title, table, lacks = scale({}, SAMPLES, LACKS)
    assert title.startswith("### Programs that are led")
    assert table.startswith("| who | what | unit | 10 |")
    assert lacks == "Not measured: circus, because it could not be fetched from PyPI."
