"""Schedules: when they come, also in the nights in which clocks are changed, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from math import inf
from pathlib import Path
from zoneinfo import ZoneInfo, reset_tzpath

import pytest

from highlanderd.config import check
from highlanderd.config.cron import CronTimes, zone_name
from highlanderd.config.printing import next_runs
from tests.support.configuration import POSTGRES, loaded, problems

BERLIN = "Europe/Berlin"
SPRING = datetime(2026, 3, 28, 20, tzinfo=UTC)
"""In the evening before clocks are set forward, from 02:00 to 03:00."""
AUTUMN = datetime(2026, 10, 24, 20, tzinfo=UTC)
"""In the evening before clocks are set back, from 03:00 to 02:00."""


def times(schedule: str, begin: datetime, number: int, zone: str = BERLIN) -> list[str]:
    cron, found, moment = CronTimes(schedule, zone), [], begin.timestamp()
    for _ in range(number):
        moment = cron.following(moment)
        found.append(cron.shown(moment))
    return found


@pytest.mark.parametrize(
    ("schedule", "begin", "expected"),
    [
        ("30 2 * * *", SPRING, ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]),
        ("15,45 2 * * *", SPRING, ["2026-03-29T03:00:00+02:00", "2026-03-30T02:15:00+02:00"]),
        ("0 2,3 * * *", SPRING, ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]),
        ("30 2 * * *", AUTUMN, ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]),
        ("0 3 * * *", AUTUMN, ["2026-10-25T03:00:00+01:00", "2026-10-26T03:00:00+01:00"]),
    ],
    ids=["left out", "two that are left out", "one of two is left out", "comes twice", "after what comes twice"],
)
def test_a_time_at_a_fixed_hour_comes_once_in_each_night(schedule: str, begin: datetime, expected: list[str]) -> None:
    assert times(schedule, begin, 2) == expected


@pytest.mark.parametrize("begin", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_every_half_hour_is_half_an_hour_in_each_night(begin: datetime) -> None:
    cron, found = CronTimes("*/30 * * * *", BERLIN), [begin.timestamp()]
    while len(found) < 20:
        found.append(cron.following(found[-1]))
    assert {later - earlier for earlier, later in pairwise(found)} == {1800.0}


@pytest.mark.parametrize("schedule", ["30 2 * * *", "15,45 2 * * *", "0 2,3 * * *", "*/20 2 * * *", "30 1-3 * * *"])
@pytest.mark.parametrize("begin", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_which_time_comes_next_does_not_depend_on_when_it_was_asked(schedule: str, begin: datetime) -> None:
    cron, start = CronTimes(schedule, BERLIN), begin.timestamp()
    all_times = [start]
    while all_times[-1] < start + 36 * 3600:
        all_times.append(cron.following(all_times[-1]))
    for asked in (start + 60 * minute + 17.5 for minute in range(20 * 60)):
        assert cron.following(asked) == min(time for time in all_times if time > asked)


def test_a_time_is_not_the_next_after_itself_and_one_that_never_comes_again_is_none() -> None:
    cron = CronTimes("0 0 * * *", "UTC")
    midnight = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert cron.following(midnight) == midnight + 86400
    assert CronTimes("0 0 29 2 *", "UTC").following(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) == inf
    assert cron.following(inf) == inf


@pytest.mark.parametrize("moment", [1e11 * 3, 1e18, -1e18, 1e308, -inf])
@pytest.mark.parametrize("zone", ["UTC", BERLIN])
def test_no_time_comes_after_a_moment_that_is_beyond_reckoning(moment: float, zone: str) -> None:
    assert CronTimes("0 2 * * *", zone).following(moment) == inf


def test_a_program_with_a_schedule_begins_each_time_once_unless_it_says_otherwise() -> None:
    said = f'schedule = " 0  2 * * MON-FRI "\ntimezone = "{BERLIN}"'
    nightly = loaded(f'{POSTGRES}[program.x]\ncommand = "x"\n{said}').configuration.programs["x"]
    assert (nightly.schedule, nightly.timezone, nightly.catch_up) == ("0 2 * * MON-FRI", BERLIN, 300.0)
    assert (nightly.restart, nightly.times) == ("never", CronTimes("0 2 * * MON-FRI", BERLIN))
    again = loaded(f'{POSTGRES}[program.x]\ncommand = "x"\n{said}\nrestart = "on-failure"').configuration.programs["x"]
    assert again.restart == "on-failure"
    assert loaded(f'{POSTGRES}[program.x]\ncommand = "x"').configuration.programs["x"].times is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('schedule = "0 2 * *"', 'x.schedule: "0 2 * *" has 4 fields; write minute, hour, day of month'),
        ('schedule = "0 0 2 * * *"', 'x.schedule: "0 0 2 * * *" has 6 fields; write minute, hour'),
        ('schedule = "60 2 * * *"', 'x.schedule: "60 2 * * *" is no schedule: its minute is "60"; write 0 to 59, as'),
        ('schedule = "0 24 * * *"', 'its hour is "24"; write 0 to 23'),
        ('schedule = "0 2 0 * *"', 'its day of month is "0"; write 1 to 31'),
        ('schedule = "0 2 * 1-13 *"', 'its month is "1-13"; write 1 to 12, or JAN to DEC'),
        ('schedule = "0 2 * * 5#2/3"', 'its day of week is "5#2/3"; write 0 to 7, or SUN to SAT'),
        (
            'schedule = "0 2 * * FOO"',
            'x.schedule: "0 2 * * FOO" is no schedule: its day of week is "FOO"; write 0 to 7',
        ),
        (
            'schedule = "0 2 31 2 *"',
            'x.schedule: "0 2 31 2 *" never comes: no month named has such a day; write a time that does',
        ),
        ('schedule = "0 2 */10 2 MON#5"', "never comes: no month named has such a day; write a time that does"),
        (f'schedule = "{"9" * 5000} 2 * * *"', "its minute is"),
        ('schedule = "@daily"', 'x.schedule: "@daily" is a word of crontabs; write "0 0 * * *"'),
        ('schedule = "@reboot"', 'x.schedule: "@reboot" is no time, and a program without a schedule starts by itself'),
        ('schedule = ""', 'x.schedule: "" has 0 fields'),
        ("schedule = 3600", "x.schedule: is an integer; write a string in quotes"),
        (
            'schedule = "0 2 * * *"\ntimezone = "Europe/Atlantis"',
            'x.timezone: "Europe/Atlantis" is no time zone of this host; write a name such as "Europe/Berlin"',
        ),
        ('schedule = "0 2 * * *"\ntimezone = "../etc"', "is no time zone of this host"),
        (
            'schedule = "0 2 * * *"\ntimezone = "localtime"',
            'x.timezone: "localtime" is whatever zone a host is set to; all nodes have to mean the same times',
        ),
        ('schedule = "0 2 * * *"\ntimezone = "posixrules"', '"posixrules" is whatever zone a host is set to'),
        ('schedule = "0 2 * * *"\ncatch_up = "0s"', 'x.catch_up: "0s" would skip times that are a moment late'),
        ('schedule = "0 2 * * *"\nrestart = "always"', "x.restart: would start program x again at once, which has a"),
        ('schedule = "0 2 * * *"\nprefer = "a"\nfailback = "1m"', "x.failback: would end a run of program x, which"),
        ('cron = "0 2 * * *"', "x.cron: this is another supervisor's spelling; write schedule = "),
    ],
)
def test_what_is_no_schedule_is_refused(keys: str, said: str) -> None:
    (problem,) = problems(f'{POSTGRES}[program.x]\ncommand = "x"\n{keys}')
    assert said in problem


def test_what_is_said_of_no_schedule_is_warned_of() -> None:
    found = loaded(f'{POSTGRES}[program.x]\ncommand = "x"\ntimezone = "UTC"\ncatch_up = "1h"').warnings
    assert [str(warning).split(": ")[1] for warning in found] == ["program.x.timezone", "program.x.catch_up"]


def test_a_host_without_time_zones_names_the_package() -> None:
    reset_tzpath(to=())
    ZoneInfo.clear_cache()
    try:
        assert zone_name("UTC") == "UTC"
        with pytest.raises(ValueError, match="this host has no time zones; install the package tzdata, or remove"):
            zone_name(BERLIN)
    finally:
        reset_tzpath()


def test_the_print_says_so_where_no_time_is_left() -> None:
    last_days = 253402128000.0  # 9999-12-30
    assert (
        next_runs(CronTimes("0 0 1 1 *", "UTC"), last_days)
        == "\n# no run from now on: the schedule names no later time"
    )
    assert next_runs(CronTimes("0 0 31 12 *", "UTC"), last_days) == "\n# next runs: 9999-12-31T00:00:00Z"


def test_the_print_of_the_configuration_shows_the_next_three_times_and_how_often_a_run_begins(tmp_path: Path) -> None:
    file = tmp_path / "main.toml"
    file.write_text(f'{POSTGRES}[program.x]\ncommand = "x"\nschedule = "30 2 * * *"\ntimezone = "{BERLIN}"')
    text = check(file, {"PATH": "/bin"}).merged()
    assert 'restart = "never" ' in text
    shown = text.rpartition("# next runs: ")[2].split()
    assert len(shown) == 3
    assert all(one.startswith("20") and ("T02:30:00+0" in one or "T03:00:00+02:00" in one) for one in shown)
