"""Whatever a role that may write the ledger has written there: it is shown, or refused with a sentence."""

from __future__ import annotations

import json
import random
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from highlanderd.errors import HighlanderError
from tests.support.commands import highlanderctl, led
from tests.support.long import first_of
from tests.support.nodes import PATIENCE, Node, Nodes, settled_ledger
from tests.support.ports import reserved_port
from tests.support.postgres import Database

LEASE = 10.0
ROUNDS, ROWS = 12, 8
TEXTS: Final = (
    "", " ", "a", "b", "relay", "\x1b[2J\r\n", "caf\u00e9\u202e", "x" * 5000, "'; --", "%s", "\ufeff", "null", "*",
)  # fmt: skip
NUMBERS: Final = ("0", "-1", "1", "7", "2147483647", "-2147483648")
VALUES: Final = {
    "text": tuple("$text$" + text + "$text$" for text in TEXTS),
    "bigint": (*NUMBERS, "9223372036854775807", "-9223372036854775808", "4294967296"),
    "integer": NUMBERS,
    "boolean": ("true", "false"),
    "uuid": ("gen_random_uuid()", "'00000000-0000-0000-0000-000000000000'"),
    "interval": ("'0'", "'-1 second'", "'10 seconds'", "'178000000 years'", "'1 month -30 days'"),
    "double precision": ("'NaN'", "'Infinity'", "'-Infinity'", "0", "-1", "1e308", "1e-308"),
    "timestamp with time zone": (
        "'infinity'", "'-infinity'", "'epoch'", "'294276-12-31'", "'4713-01-01 BC'", "now()", "now() + '1 minute'",
    ),
    "jsonb": (
        "'null'", "'7'", "'1e400'", "'[]'", "'{}'", "'\"x\"'", "'[[1, {}], null]'", "'{\"command\": {}}'",
        "'{\"command\": 7, \"\": \"\\u001b\"}'",
        "'{\"timeout\": 1e400, \"wait\": true}'", "'{\"reason\": \"\\u202e\"}'",
        "'{\"signal\": [], \"force\": 1}'", "('[' || repeat('[', 2000) || repeat(']', 2000) || ']')::jsonb",
    ),
}  # fmt: skip
"""Literals, by the type of a column."""
OURS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "node": {"name": ("'b'", "'c'", "$text$\x1b[2J$text$", "''")},
    "candidate": {"node": ("'b'", "'c'", "''"), "program": ("'beat'", "'relay'", "''", "$text$\x1b$text$")},
    "command": {
        "node": ("'a'",),
        "verb": ("'restart'", "'release'", "'signal'", "'stop'", "'start'", "'explode'", "''", "'__class__'"),
        "program": ("'relay'", "''", "'*'", "$text$\x1b$text$"),
        "deadline": ("now() + '1 minute'", "'infinity'"),
        "taken_by": ("NULL",),
        "answered": ("NULL",),
    },
    "wish": {},
    "lease": {},
    "term": {"program": ("'beat'", "'relay'", "''", "$text$\x1b$text$")},
    "event": {},
}
"""Columns of each table whose values bring a row to where a daemon looks, and not to what ``beat`` is led by."""
PAGES = (
    "/v1/status", "/v1/cluster", "/v1/history", "/v1/history/beat", "/v1/history/relay", "/v1/ledger",
    "/v1/maintenance", "/v1/programs/beat", "/v1/programs/relay",
)  # fmt: skip
SCRAPED = ("/", "/metrics", "/cluster", "/history", "/readyz", "/leader/beat")
SHOWN = (
    ("events",),
    ("cluster",),
    ("history",),
    ("history", "--summary"),
    ("status",),
    ("show", "relay"),
    ("explain", "beat"),
)


class Hand:
    """Writes rows that no daemon would write."""

    def __init__(self, database: Database, seed: int) -> None:
        self._database, self._random = database, random.Random(seed)
        self._columns: dict[str, list[tuple[str, str, bool]]] = {
            table: database.sql(
                "SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns"
                f" WHERE table_schema = 'highlander' AND table_name = '{table}' AND is_identity = 'NO'"
                " ORDER BY ordinal_position"
            )
            for table in OURS
        }

    def write(self, table: str) -> str:
        """Write one row; return its statement."""
        values = {name: self._value(table, name, kind, nullable) for name, kind, nullable in self._columns[table]}
        statement = (
            f"INSERT INTO highlander.{table} ({', '.join(values)}) VALUES ({', '.join(values.values())})"
            " ON CONFLICT DO NOTHING"
        )
        self._database.sql(statement)
        return statement

    def _value(self, table: str, name: str, kind: str, nullable: bool) -> str:
        chosen = OURS[table].get(name, VALUES[kind])
        if nullable and name not in OURS[table] and self._random.random() < 0.3:
            return "NULL"
        return self._random.choice(chosen)

    def table(self) -> str:
        return self._random.choice([*OURS, "command", "candidate"])

    def wipe(self) -> None:
        """Remove the rows; those of leases stay, as in any ledger."""
        for table in ("wish", "term", "event"):
            self._database.sql(f"DELETE FROM highlander.{table} WHERE program IS DISTINCT FROM 'beat'")
        self._database.sql("DELETE FROM highlander.candidate WHERE node <> 'a'")
        self._database.sql("DELETE FROM highlander.node WHERE name <> 'a'")


@pytest.mark.parametrize("seed", first_of([1, 2]))
def test_no_row_of_the_ledger_ends_a_worker_or_a_program_that_it_does_not_concern(
    nodes: Nodes, database: Database, seed: int
) -> None:
    settled_ledger(database, LEASE)
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    nodes.nodes.append(node)
    node.configure("[program.beat]\n[program.relay]\n")
    address = f"127.0.0.1:{reserved_port()}"
    node.file.write_text(node.file.read_text().replace('listen = ""', f'listen = "{address}"'))
    node.start()
    led(node, "beat", "relay")
    worker, hand, written = node.worker, Hand(database, seed), list[str]()
    for _ in range(ROUNDS):
        written = [hand.write(hand.table()) for _ in range(ROWS)]
        for page in PAGES:
            assert readable(node, page), (page, written)
        for page in SCRAPED:
            assert status_of(f"http://{address}{page}") in (200, 503), (page, written)
        assert node.worker == worker, written
        assert traceback(node) == "", written
        hand.wipe()
    for words in SHOWN:
        for _ in range(3):
            hand.write(hand.table())
        shown = highlanderctl(node.socket, *words)
        assert "Traceback" not in shown.err, words
        assert not {"\x1b", "\u202e"} & set(shown.out + shown.err), words
    assert [life.starts for life in nodes.journal.lives("beat")] == [1]
    assert node.program("beat")["restarts"] == 0


def test_what_anybody_has_written_is_shown_at_a_bounded_length(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=LEASE)
    led(node, "beat")
    assert highlanderctl(node.socket, "restart", "beat").code == 0
    long = "repeat('x', 300000)"
    database.sql(
        f"UPDATE highlander.term SET author = {long}, remark = {long}, reason = {long} WHERE ended_at IS NOT NULL"
    )
    database.sql(
        "INSERT INTO highlander.event (event, node, program, author, reason)"
        f" SELECT {long}, {long}, {long}, {long}, {long} FROM generate_series(1, 3)"
    )
    database.sql(
        "INSERT INTO highlander.candidate (node, program, lock_id, state, able, reason, ready, since, digests)"
        f" VALUES ('a', 'relay', 1, {long}, false, {long}, false, now(), json_build_object('key', {long})::jsonb)"
    )
    database.sql(f"INSERT INTO highlander.wish (lock_id, program, author, reason) VALUES (1, {long}, {long}, {long})")
    for words in (("events",), ("cluster",), ("history",), ("explain", "relay")):
        shown = highlanderctl(node.socket, *words, "--json")
        assert (shown.code, shown.err) == (0, ""), words
        assert 200 < len(shown.out) < 20_000, words


def readable(node: Node, page: str) -> bool:
    """Return whether it is answered, and if only by a sentence."""
    try:
        json.dumps(node.control.ask("GET", page), allow_nan=False)
    except HighlanderError as error:
        return "Please report this bug" not in str(error) and "broke off" not in str(error)
    return True


def status_of(url: str) -> int:
    """Return the status of the answer."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:  # noqa: S310 - our own
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def traceback(node: Node) -> str:
    """Return the end of what the daemon has said, if that has a traceback."""
    log = Path(node.log).read_text(errors="replace")
    return log[log.index("Traceback") - 500 :][:3000] if "Traceback" in log else ""
