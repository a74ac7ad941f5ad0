"""The bounds that ``--check`` prints: the lease's own figures, as words."""

from __future__ import annotations

import pytest

from highlanderd.config.bounds import bounds
from tests.support.configuration import loaded

POSTGRES = '[postgres]\ndsn = "host=db1 dbname=ops user=ops"\nlease = "{lease}"\n'


def table(text: str, lease: str = "10s", postgres: str = "") -> list[str]:
    return bounds(loaded(POSTGRES.format(lease=lease) + postgres + text).configuration)


def program(name: str, stop_timeout: str = "10s") -> str:
    return f'[program.{name}]\ncommand = ["true"]\nstop_timeout = "{stop_timeout}"\n'


def test_every_event_has_its_bound() -> None:
    assert table(program("beat") + program("relay")) == [
        "with a lease of 10s (an existing ledger's own lease rules):",
        "  PostgreSQL is away for up to 4s        no child is stopped",
        "    longer: SIGTERM to the child         7s after the last renewal",
        "    longer: SIGKILL to its whole tree    9s after the last renewal",
        "    then back, restarted or failed over  led at most 11s after the reconnection",
        "  the leading node is lost               led elsewhere at most 13s after the last renewal",
        "  maintenance on --for 1m                an outage of up to 1m stops no child",
        "    a node that is lost meanwhile        led elsewhere at most 1m37s after the last renewal",
        "  the daemon's worker is killed          no child is stopped",
        "  its guardian is killed                 a planned handover of everything (systemd: as when all is killed)",
        "  all of the daemon is killed            the children at once; led elsewhere as when the node is lost",
        "  a planned handover                     the child's own stop, at most 10s",
        "  the first start on a new ledger        10.5s of waiting, once",
    ]


def test_programs_are_named_where_their_bounds_differ() -> None:
    lines = table(program("beat") + program("bot", "500ms") + program("relay"))
    assert lines[2:4] == [
        "    longer: SIGTERM to the child         7s after the last renewal (beat, relay)",
        "                                         8.5s after the last renewal (bot)",
    ]
    assert lines[-3:-1] == [
        "  a planned handover                     the child's own stop, at most 10s (beat, relay)",
        "                                         the child's own stop, at most 500ms (bot)",
    ]


@pytest.mark.parametrize(
    ("alive", "said"),
    [
        ('{ tcp = "db:1", period = "10s", timeout = "2s", threshold = 3 }', "at most 32s later"),
        ('{ tcp = "db:1", period = "1s", timeout = "10s", threshold = 3 }', "at most 31s later"),
        ('"notify"', "20s after its last WATCHDOG=1, unless it chooses otherwise"),
    ],
    ids=["asked each period", "asked once the last question has ended", "says it itself"],
)
def test_a_program_that_hangs_is_noticed_in_time(alive: str, said: str) -> None:
    lines = table(program("beat") + f'alive = {alive}\nalive_timeout = "20s"\n')
    assert f"  a program no longer does its work      its own stop begins {said}" in lines


def test_hooks_take_their_time_in_a_handover() -> None:
    hooks = 'before_start = "x"\nafter_ready = "x"\nafter_stop = "x"\nhook_timeout = "5s"\n'
    lines = table(program("beat") + hooks)
    assert lines[-2] == "    and its hooks                        at most 10s in addition"


def test_hundreds_of_programs_stay_one_line() -> None:
    lines = table("".join(program(f"p{number}") for number in range(200)) + program("slow", "1m"))
    assert "  a planned handover                     the child's own stop, at most 1m (slow)" in lines
    assert f"{'':41}the child's own stop, at most 10s (p0, p1, p2, p3, p4 and 195 more)" in lines


def test_another_lease_has_other_bounds() -> None:
    lines = table(program("beat"), lease="2s")
    assert "  PostgreSQL is away for up to 800ms     no child is stopped" in lines
    assert "  the leading node is lost               led elsewhere at most 2.6s after the last renewal" in lines
    assert "    a node that is lost meanwhile        led elsewhere at most 1m31.85s after the last renewal" in lines


def test_a_child_that_shall_stop_at_once_does() -> None:
    lines = table(program("beat"), postgres='on_connection_loss = "stop"\n')
    assert sum("SIGTERM to the child at once" in line for line in lines) == 2
    assert not any("no child is stopped" in line for line in lines)
    assert not any("maintenance" in line for line in lines), "it spares no child that shall stop at once"


def test_without_programs_there_is_nothing_to_bound() -> None:
    assert table("") == []
