"""Durations and moments as people read and write them, in the file and in commands alike.

A duration is ``10s``, ``1m30s``, or a number of seconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

LONGEST_OUTAGE: Final = 86_400.0
"""Seconds of maintenance at most: a day without a database is no maintenance, and a lost node is replaced so late."""

_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER: Final = r"(\d+(?:\.\d+)?)"
_WRITTEN: Final = "".join(f"(?:{_NUMBER}{unit})?" for unit in _UNITS)


def since_epoch(moment: str | None) -> float | None:
    """Return a moment in seconds of the epoch; None for none, and for one that PostgreSQL has and Python has not.

    >>> since_epoch("1970-01-01T00:01:00Z"), since_epoch("infinity"), since_epoch("294276-12-31T00:00:00.000Z")
    (60.0, None, None)
    """
    try:
        return None if moment is None else datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=2048)  # the moments of many programs are written again and again
def rfc_3339(moment: float, precision: str = "milliseconds") -> str:
    """Return a moment in seconds of the epoch as RFC 3339 in UTC, cut to ``precision`` as ``isoformat`` names it.

    >>> rfc_3339(1767323045.678), rfc_3339(1767323045.678, "seconds")
    ('2026-01-02T03:04:05.678Z', '2026-01-02T03:04:05Z')
    """
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def seconds(text: str) -> float | None:
    """Return seconds; None for what is no duration.

    >>> seconds("1m30s"), seconds("500ms"), seconds("0.5"), seconds("1 m")
    (90.0, 0.5, 0.5, None)
    """
    if re.fullmatch(_NUMBER, text):
        return float(text)
    found = re.fullmatch(_WRITTEN, text)
    if found is None or not text:
        return None
    parts = zip(found.groups(), _UNITS.values(), strict=True)
    total = sum(float(number) * unit for number, unit in parts if number is not None)
    return round(total, 6)  # 59 times a thousandth is not 0.059


def shown(seconds: float) -> str:
    """Write seconds as a person would.

    >>> shown(90), shown(3.5), shown(0.5), shown(0)
    ('1m30s', '3.5s', '500ms', '0s')
    """
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    left, written = round(seconds, 3), ""
    for unit in ("d", "h", "m"):
        number, left = divmod(left, _UNITS[unit])
        written += f"{number:g}{unit}" if number else ""
    return written + f"{left:g}s" if left or not written else written


def span(seconds: float | None) -> str:
    """Return a duration in its two largest units.

    >>> span(42.9), span(7260), span(90000), span(None)
    ('42s', '2h 1m', '1d 1h', '-')
    """
    return "-" if seconds is None else _span(int(seconds))


@lru_cache  # the programs of a node are often as old as each other
def _span(seconds: int) -> str:
    left, parts = max(0, seconds), []
    for unit in ("d", "h", "m", "s"):
        number, left = divmod(left, int(_UNITS[unit]))
        parts += [f"{number}{unit}"] if number else []
    return " ".join(parts[:2]) or "0s"


def brief(seconds: float) -> str:
    """Return a measured duration as exactly as somebody who reads many of them needs it.

    >>> brief(0.0042), brief(19.162), brief(3725.0)
    ('4ms', '19.2s', '1h 2m')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 60 else span(seconds)


def clock(moment: str, now: float) -> str:
    """Return an RFC 3339 moment as the time of day in UTC, with the date unless it is today's.

    ``now`` is in seconds of the epoch. A text that is no moment is returned as it is.

    >>> clock("2026-01-02T03:04:05.678Z", 1767312000.0), clock("2026-01-02T03:04:05.678Z", 0.0)
    ('03:04:05 UTC', '2026-01-02 03:04:05 UTC')
    """
    try:
        when = datetime.fromisoformat(moment).astimezone(UTC)
    except ValueError:
        return moment
    today = when.date() == datetime.fromtimestamp(now, UTC).date()
    return f"{when:%H:%M:%S} UTC" if today else f"{when:%Y-%m-%d %H:%M:%S} UTC"
