"""When a program with a schedule is to run: five cron fields in a time zone, as moments that every node agrees on.

What a schedule means at the change of daylight saving time is cronsim's to say, which does as Debian's cron does. A
moment is in seconds of the epoch, so the second 02:30 of an autumn night is another one than the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from math import inf
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from highlanderd.config.values import quoted, text

WRITTEN_OUT: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
"""Words of crontabs, and the fields that they stand for."""
FIELDS: Final = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day of week", "0 to 7, or SUN to SAT"),
)
"""What each field is, and what it may be."""


@dataclass(frozen=True, slots=True)
class CronTimes:
    """The times of one schedule."""

    schedule: str
    timezone: str

    def following(self, moment: float) -> float:
        """Return the first time after a moment; infinity where there is none."""
        return next((time for time in self._around(moment) if time > moment), inf)

    def _around(self, moment: float) -> Iterator[float]:
        """Yield the times from a little before a moment on.

        cronsim follows a schedule at fixed hours on the clock of the zone, which shows each time between two and three
        twice in an autumn night. From a moment in the second of these hours it yields times of the first one, too.
        """
        from cronsim import CronSim  # only who has a schedule needs it

        try:
            for time in CronSim(self.schedule, datetime.fromtimestamp(moment, self._zone)):
                yield time.timestamp()
        except (OSError, OverflowError, ValueError):  # there is none in the years that can be reckoned with: 1 to 9999
            return

    def shown(self, moment: float) -> str:
        """Return one of its times as RFC 3339 in its zone.

        >>> CronTimes("0 2 * * *", "UTC").shown(1767319200.0)
        '2026-01-02T02:00:00Z'
        """
        return datetime.fromtimestamp(moment, self._zone).isoformat(timespec="seconds").replace("+00:00", "Z")

    def of(self, words: str) -> CronTimes | None:
        """Return the times of another schedule, as ``words`` has it; None where this host knows no such one.

        >>> CronTimes("0 2 * * *", "UTC").of("0 3 * * * Europe/Berlin")
        CronTimes(schedule='0 3 * * *', timezone='Europe/Berlin')
        """
        fields, _, zone = words.rpartition(" ")
        try:
            return CronTimes(schedule_fields(fields) or "", zone_name(zone))
        except ValueError:
            return None

    @property
    def words(self) -> str:
        """The schedule and its time zone, as the ledger keeps them."""
        return f"{self.schedule} {self.timezone}"

    @property
    def _zone(self) -> tzinfo:
        return UTC if self.timezone == "UTC" else ZoneInfo(self.timezone)


def schedule_fields(value: object) -> str | None:
    """Return five cron fields, parted by one space; None for no schedule."""
    if value is None:
        return None
    fields = text(value).split()
    if fields and (written_out := WRITTEN_OUT.get(fields[0].lower())) is not None:
        raise ValueError(f'{quoted(value)} is a word of crontabs; write "{written_out}"')
    if fields and fields[0].lower() == "@reboot":
        raise ValueError(
            f"{quoted(value)} is no time, and a program without a schedule starts by itself; remove it, and write "
            'restart = "never" for what is to run once'
        )
    if len(fields) != 5:
        hint = 'write minute, hour, day of month, month and day of week, such as "30 2 * * *"'
        raise ValueError(f"{quoted(value)} has {len(fields)} {'field' if len(fields) == 1 else 'fields'}; {hint}")
    _parse(" ".join(fields))
    return " ".join(fields)


def _parse(schedule: str) -> None:
    """Raise ValueError for fields that name no time."""
    for number, (field, (name, range_)) in enumerate(zip(schedule.split(), FIELDS, strict=True)):
        if not _comes(" ".join(["*"] * number + [field] + ["*"] * (4 - number))):
            raise ValueError(
                f"{quoted(schedule)} is no schedule: its {name} is {quoted(field)}; write {range_}, as crontab(5) "
                "has it"
            )
    if not _comes(schedule):
        raise ValueError(f"{quoted(schedule)} never comes: no month named has such a day; write a time that does")


def _comes(schedule: str) -> bool:
    """Return whether there is a time that five fields name."""
    from cronsim import CronSim, CronSimError

    try:
        next(CronSim(schedule, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, ValueError, StopIteration):  # ValueError: a number of more digits than Python reads
        return False
    return True


OF_A_HOST: Final = frozenset({"localtime", "posixrules"})
"""Names in zoneinfo that are another time zone on each host."""


def zone_name(value: object) -> str:
    """Accept the name of a time zone that this host knows, and that is the same zone on every host."""
    name = text(value)
    if name == "UTC":
        return name
    if name in OF_A_HOST:
        hint = 'all nodes have to mean the same times: name the zone, such as "Europe/Berlin"'
        raise ValueError(f"{quoted(name)} is whatever zone a host is set to; {hint}")
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        if not available_timezones():
            hint = "install the package tzdata, or remove timezone for UTC"
            raise ValueError(f"{quoted(name)} cannot be looked up: this host has no time zones; {hint}") from None
        hint = 'write a name such as "Europe/Berlin"; /usr/share/zoneinfo has them'
        raise ValueError(f"{quoted(name)} is no time zone of this host; {hint}") from None
    return name
