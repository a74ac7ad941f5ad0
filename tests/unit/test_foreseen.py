"""Refusals that other software than a plain PostgreSQL is known for: each recorded text leads to its sentence."""

from __future__ import annotations

import pytest

from highlanderd.core.lease import Lease
from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.fitness import ServerFacts, foreseen, ledgers_meta, of_backend, refuse_software, server_facts
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.replies import ConnectFailed, Reply, ServerMessage

AURORA = "RDS for PostgreSQL or another PostgreSQL"


@pytest.mark.parametrize(
    ("text", "who", "cure"),
    [
        ("unsupported startup parameter: options", "pgbouncer", "leads to PostgreSQL directly"),
        ("unsupported startup parameter in options: lock_timeout", "pgbouncer", "leads to PostgreSQL directly"),
        (
            "Feature not supported: RDS Proxy currently doesn't support command-line options.",
            "RDS Proxy",
            "name the endpoint of the database",
        ),
        ("RDS Proxy currently doesn\N{RIGHT SINGLE QUOTATION MARK}t support this", "RDS Proxy", "endpoint"),
        (
            'invalid value for parameter "client_connection_check_interval": "2000"; DETAIL:  '
            "client_connection_check_interval must be set to 0 on this platform.",
            "cannot watch connections",
            "use a server on Linux",
        ),
    ],
)
def test_a_refused_connection_names_who_refused_it_and_the_cure(text: str, who: str, cure: str) -> None:
    said = foreseen(f'connection to server at "127.0.0.1", port 6432 failed: FATAL:  {text}')
    assert who in said
    assert cure in said
    assert text in said, "who looks for the server's own words finds them"
    assert "port 6432" not in said


@pytest.mark.parametrize(
    "text",
    [
        'connection to server at "::1", port 5432 failed: Connection refused; Is the server running?',
        'FATAL:  password authentication failed for user "u"',
        "FATAL:  sorry, too many clients already",
        "FATAL:  the database system is starting up",
        'FATAL:  unrecognized configuration parameter "idle_session_timeout"',  # the version tells, and is asked for
    ],
)
def test_what_a_plain_server_says_is_left_as_it_is(text: str) -> None:
    assert not foreseen(text)


@pytest.mark.parametrize(
    ("sqlstate", "text", "said"),
    [
        ("55000", "wal_level must be set to 'logical'", AURORA),
        ("0A000", "Function pg_walfile_name() is currently not supported for Aurora", AURORA),
        ("0A000", "pg_current_wal_lsn() is not yet supported", "use a plain PostgreSQL"),
        ("42883", "function pg_control_system() does not exist", "use a plain PostgreSQL"),
        ("42883", "unknown function: pg_control_system()", "use a plain PostgreSQL"),
        (
            "42501",
            "permission denied for function pg_control_system",
            'GRANT EXECUTE ON FUNCTION pg_control_system TO "own"',
        ),
        (
            "42501",
            "keine Berechtigung für Funktion pg_walfile_name",
            'GRANT EXECUTE ON FUNCTION pg_walfile_name TO "own"',
        ),
        ("42P05", 'prepared statement "hello_2" already exists', "leads to PostgreSQL directly"),
    ],
)
def test_a_first_question_that_fails_names_the_cure(sqlstate: str, text: str, said: str) -> None:
    with pytest.raises(Unfit) as refused:
        server_facts(Reply(error=ServerMessage(sqlstate, text, "")), 1, "own")
    assert said in str(refused.value)


def test_a_first_question_that_fails_for_another_reason_is_asked_again() -> None:
    with pytest.raises(ConnectFailed, match="recovery is in progress"):
        server_facts(Reply(error=ServerMessage("55000", "recovery is in progress", "")), 1, "own")


@pytest.mark.parametrize(
    ("version", "told", "said"),
    [
        (180000, {"crdb_version": "CockroachDB CCL v25.4.0", "server_version": "18.0.0"}, "this is CockroachDB"),
        (110200, {"server_version": "11.2-YB-2024.1.0.0-b0"}, "this is YugabyteDB"),
        (150012, {"server_version": "15.12-YB-2025.1.0.0-b168"}, "this is YugabyteDB"),
        (130023, {"server_version": "13.23"}, "PostgreSQL 13 is too old"),
    ],
)
def test_software_that_gives_itself_away_is_refused(version: int, told: dict[str, str], said: str) -> None:
    with pytest.raises(Unfit, match=said):
        refuse_software(version, lambda name: told.get(name, ""))


@pytest.mark.parametrize("version", ["14.23 (Debian 14.23-1.pgdg12+1)", "18.4"])
def test_a_plain_server_is_taken(version: str) -> None:
    refuse_software(140023, lambda name: {"server_version": version}.get(name, ""))


def _greeted(pid: int) -> ServerFacts:
    return ServerFacts(
        standby=False, pid=pid, identified=1, fsync=True, version="18.4", role="r", database="d", system="1", timeline=1
    )


@pytest.mark.parametrize("pid", ["8", None])
def test_what_another_backend_answers_is_refused_as_a_poolers(pid: str | None) -> None:
    meta = Reply(rows=[("2", "highlander", "10", "2", None, pid)])
    with pytest.raises(Unfit, match="leads to PostgreSQL directly"):
        ledgers_meta(meta, Ledger("highlander", "highlander", 10.0), _greeted(7))
    with pytest.raises(Unfit, match="leads to PostgreSQL directly"):
        of_backend(Reply(rows=[("1", "7"), ("2", pid)]), 7)


def test_what_the_sessions_own_backend_answers_is_read_without_its_pid() -> None:
    meta = Reply(rows=[("2", "highlander", "10", "2", None, "7")])
    assert ledgers_meta(meta, Ledger("highlander", "highlander", 10.0), _greeted(7)) == (Lease(10.0), 2)
    assert of_backend(Reply(rows=[("1", "7"), ("2", "7")]), 7) == [("1",), ("2",)]
