"""What ``--doctor`` says of which facts: each finding, its severity, and its cure."""

from __future__ import annotations

import pytest

from highlanderd.core.lease import Lease
from highlanderd.doctor import Finding, Severity, report
from highlanderd.doctor.facts import AskedHost, ConnectionEnds, Facts, Limit, Plan, Replication, SchemaAccess, Setting
from highlanderd.doctor.hosts import judge_hosts
from highlanderd.doctor.judgement import judge
from highlanderd.postgres.addresses import startup_options
from highlanderd.postgres.fitness import ServerFacts
from highlanderd.postgres.ledger import Ledger
from highlanderd.structs import replace

LEASE = Lease(10.0)
GREETING = ServerFacts(
    standby=False,
    pid=1,
    identified=1,
    fsync=True,
    version="18.4",
    role="ops",
    database="shop",
    system="1",
    timeline=3,
)
HOST = AskedHost("db1:5432", server_facts=GREETING, seconds=0.02)
ROOM = Limit("max_connections", 97, 20, "raise max_connections to {}", 3)
HEALTHY = Facts(
    plan=Plan(Ledger("highlander", "highlander", LEASE.length), "a", programs=4),
    host=HOST,
    server_facts=GREETING,
    settings=startup_options(LEASE),
    plain={"lock_timeout": Setting("0 ms", "default")},
    ends=ConnectionEnds("10.0.0.1:4000", "10.0.0.1:4000", 3000),
    limits=(ROOM,),
    nodes=0,
    replication=Replication("", 0, 0, None),
    full_page_writes=True,
    access=SchemaAccess(tables=3, creatable=True, missing=()),
    ledger_lease=LEASE,
    refusal="",
    notes=(),
    answers=(0.001,) * 20,
    writes=(0.004,) * 3,
    ahead=0.01,
)


def worst(facts: Facts) -> Finding:
    """Return what would be printed first."""
    return min(judge(facts), key=lambda finding: finding.severity)


def test_a_healthy_server_has_nothing_but_fine_findings() -> None:
    assert {finding.severity for finding in judge(HEALTHY)} == {Severity.FINE}
    said = [finding.sentence for finding in judge(HEALTHY)]
    assert said == [
        "the ledger in schema highlander can be used, and has the lease of this file",
        "4 programs on 3 nodes (assumed, for fewer than two are connected) need 15 connections; 77 are there for them",
        "TCP timeouts hold on both ends of the connection",
        "an answer takes 1 ms and a durable commit takes 4 ms (medians); a renewal is due every 2 s",
        "the clocks of server and host agree to within a second; nothing is decided by them anyway",
    ]


def test_one_program_is_not_called_programs() -> None:
    [said] = [
        found.sentence
        for found in judge(replace(HEALTHY, plan=replace(HEALTHY.plan, programs=1)))
        if " need " in found.sentence
    ]
    assert said.startswith("1 program on 3 nodes ")


PROBLEMS = {
    "fsync = off": (replace(HEALTHY, server_facts=replace(GREETING, fsync=False)), "switch fsync on"),
    "a synchronous standby that is away": (
        replace(HEALTHY, replication=Replication("db2", 0, 0, None)),
        "every write hangs, and nothing can be led; start the standby",
    ),
    "a standby that is not the synchronous one": (
        replace(HEALTHY, replication=Replication("db2", 1, 1, 0)),
        "no such standby is attached",
    ),
    "a ledger that may not be created": (
        replace(HEALTHY, access=SchemaAccess(tables=0, creatable=False, missing=()), ledger_lease=None),
        "role ops may not create the ledger in schema highlander of database shop; let an administrator run",
    ),
    "another namespace's ledger": (
        replace(HEALTHY, ledger_lease=None, refusal="belongs to another"),
        "belongs to another",
    ),
    "privileges": (
        replace(
            HEALTHY, access=SchemaAccess(tables=3, creatable=False, missing=("UPDATE on meta",)), ledger_lease=None
        ),
        'lacks UPDATE on meta; let an administrator run: GRANT USAGE ON SCHEMA "highlander" TO "ops"; GRANT SELECT',
    ),
    "too few connections": (
        replace(HEALTHY, nodes=20),
        "4 programs on 20 nodes (as many as are connected) need 100 connections, but max_connections leaves 77 (others "
        "use 20 now); raise max_connections to 128 (125, and 3 reserved for other roles)",
    ),
    "too few connections where every host is asked": (
        replace(HEALTHY, plan=replace(HEALTHY.plan, hosts=2), nodes=13),
        "4 programs on 13 nodes (as many as are connected) need 78 connections, but max_connections leaves 77 (others "
        "use 20 now); raise max_connections to 107 (104, and 3 reserved for other roles)",
    ),
    "too few connections, where sharing needs fewer": (
        replace(HEALTHY, plan=replace(HEALTHY.plan, programs=40)),
        "40 programs on 3 nodes (assumed, for fewer than two are connected) need 123 connections, but max_connections "
        "leaves 77 (others use 20 now); raise max_connections to 187 (184, and 3 reserved for other roles); or "
        '[postgres] standby_connections = "shared" on every node: 140 are enough, with that room',
    ),
    "too few connections even for those who share": (
        replace(HEALTHY, plan=replace(HEALTHY.plan, programs=90, sharing=True)),
        "that share connections while they wait need 105 connections, but max_connections leaves 77 (others use 20 "
        "now); raise max_connections to 313 (310, and 3 reserved for other roles)",
    ),
    "settings that somebody drops": (
        replace(HEALTHY, settings={**startup_options(LEASE), "idle_session_timeout": "0"}),
        "idle_session_timeout is 0 instead of 10000",
    ),
    "a slow connection": (replace(HEALTHY, host=replace(HOST, seconds=2.1)), "connecting took 2.1 s"),
    "an answer that comes too late": (
        replace(HEALTHY, answers=(0.001,) * 19 + (3.1,)),
        "an answer took up to 3.1 s; a daemon gives a session up after 3 s",
    ),
    "a commit that comes too late": (replace(HEALTHY, writes=(3.5,)), "a durable commit took up to 3.5 s"),
}
WARNINGS = {
    "full_page_writes": (replace(HEALTHY, full_page_writes=False), "switch it on"),
    "asynchronous standbys": (replace(HEALTHY, replication=Replication("", 1, 1, 0)), "standbys are attached"),
    "standbys that the role may not see": (
        replace(HEALTHY, replication=Replication("", 1, 1, None)),
        "standbys (or mere backups) are attached",
    ),
    "another lease": (replace(HEALTHY, ledger_lease=Lease(20.0)), "postgres.lease is 10 s here but 20 s in the ledger"),
    "connections that leave no room for a lost host": (
        replace(HEALTHY, limits=(replace(ROOM, total=38),)),
        "leave room for one node more: raise max_connections to 43 (40, and 3 reserved for other roles)",
    ),
    "a system without the TCP settings": (
        replace(HEALTHY, settings={**startup_options(LEASE), "tcp_user_timeout": "0"}),
        "does not take tcp_user_timeout (0 instead of 10000)",
    ),
    "a host without the TCP settings": (
        replace(HEALTHY, ends=replace(HEALTHY.ends, user_timeout=0)),
        "this host does not take tcp_user_timeout",
    ),
    "a proxy": (
        replace(HEALTHY, ends=replace(HEALTHY.ends, theirs="10.0.0.9:5000")),
        "the server sees this connection come from 10.0.0.9:5000, while it begins at 10.0.0.1:4000",
    ),
    "a slow disk": (replace(HEALTHY, writes=(0.3, 0.3, 0.3)), "a durable commit takes 300 ms, which is much"),
    "clocks": (replace(HEALTHY, ahead=-3.25), "the server's clock is 3.25 s behind this host's"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_the_daemon_cannot_work_with_is_a_problem(case: str) -> None:
    facts, words = PROBLEMS[case]
    assert worst(facts).severity is Severity.PROBLEM
    assert words in worst(facts).sentence


@pytest.mark.parametrize("case", WARNINGS)
def test_what_will_cost_something_is_a_warning(case: str) -> None:
    facts, words = WARNINGS[case]
    assert worst(facts).severity is Severity.WARNING
    assert words in worst(facts).sentence


@pytest.mark.parametrize(("names", "refused"), [("db2", False), ("ANY 1 (db2, db3)", True), ("", True)])
def test_a_role_that_sees_no_standby_hears_that_longer_leases_will_be_refused(names: str, refused: bool) -> None:
    said = [found.sentence for found in judge(replace(HEALTHY, replication=Replication(names, 1, 1, None)))]
    cure = (
        "role ops may not see what standbys have received, so maintenance and a longer lease will be refused; "
        'GRANT pg_monitor TO "ops"'
    )
    assert (cure in said) == refused


def test_a_backup_is_no_standby() -> None:
    assert worst(replace(HEALTHY, replication=Replication("", 2, 0, 0))).severity is Severity.FINE


def test_an_embedded_server_may_be_forgetful() -> None:
    facts = replace(HEALTHY, server_facts=replace(GREETING, fsync=False), full_page_writes=False)
    assert worst(replace(facts, plan=replace(HEALTHY.plan, embedded=True))).severity is Severity.FINE


def test_settings_of_the_role_that_are_overridden_are_named_with_who_made_them() -> None:
    plain = {
        "lock_timeout": Setting("1 ms", "user"),
        "client_min_messages": Setting("warning", "database"),
        "default_transaction_isolation": Setting("read committed", "configuration file"),
    }
    said = [finding.sentence for finding in judge(replace(HEALTHY, plain=plain))]
    assert (
        "overridden for highlanderd's sessions, though not for your programs' own: lock_timeout = 1 ms (ALTER ROLE)"
        in said
    )


def test_the_tightest_limit_is_what_counts() -> None:
    role = Limit("the CONNECTION LIMIT of role ops", 10, 0, 'ALTER ROLE "ops" CONNECTION LIMIT {}')
    found = worst(replace(HEALTHY, limits=(ROOM, role)))
    assert found.severity is Severity.PROBLEM
    assert 'ALTER ROLE "ops" CONNECTION LIMIT 20' in found.sentence


# ------------------------------------------------------------------------------------------------------------- hosts

STANDBY = AskedHost("db2:5432", server_facts=replace(GREETING, standby=True, timeline=0))
DISCONNECTED = AskedHost("db2:5432", "connection refused")


def said_of(*hosts: AskedHost) -> list[tuple[Severity, str]]:
    return [(finding.severity, finding.sentence) for finding in judge_hosts(hosts)]


def test_one_good_host_is_not_worth_a_word() -> None:
    assert said_of(HOST) == []


def test_a_host_that_nobody_can_reach_is_a_problem_alone_and_a_warning_beside_another() -> None:
    assert said_of(DISCONNECTED) == [(Severity.PROBLEM, "db2:5432: connection refused")]
    [(severity, sentence)] = said_of(HOST, DISCONNECTED)
    assert severity is Severity.WARNING
    assert sentence.endswith("a failover to this host would stop every program")


def test_a_host_is_as_good_as_the_best_of_its_addresses() -> None:
    assert said_of(AskedHost(HOST.place, "connection refused"), HOST) == []
    assert said_of(HOST, AskedHost(HOST.place, "connection refused")) == []


def test_a_standby_is_a_problem_alone_and_welcome_beside_its_primary() -> None:
    [(severity, sentence)] = said_of(STANDBY)
    assert severity is Severity.PROBLEM
    assert "target_session_attrs=read-write" in sentence
    assert said_of(HOST, STANDBY) == [(Severity.FINE, "db2:5432 is a hot standby, and would be found after a failover")]


def test_a_standby_of_another_system_does_not_belong_there() -> None:
    stranger = replace(STANDBY, server_facts=replace(GREETING, standby=True, system="2"))
    assert said_of(HOST, stranger)[0][0] is Severity.PROBLEM


def test_an_old_primary_that_still_runs_is_named() -> None:
    old = AskedHost("db2:5432", server_facts=replace(GREETING, timeline=2))
    [(severity, sentence)] = said_of(HOST, old)
    assert severity is Severity.PROBLEM
    assert "stop db2:5432, which is on the oldest timeline" in sentence


def test_primaries_of_two_systems_are_no_cluster() -> None:
    [(severity, sentence)] = said_of(HOST, AskedHost("db2:5432", server_facts=replace(GREETING, system="2")))
    assert severity is Severity.PROBLEM
    assert "different systems" in sentence


# ------------------------------------------------------------------------------------------------------------ report


def test_the_worst_comes_first_and_the_sum_last() -> None:
    found = [Finding(Severity.FINE, "a"), Finding(Severity.WARNING, "b"), Finding(Severity.PROBLEM, "c")]
    assert report(found) == ["problem  c", "warning  b", "fine     a", "1 problem, 1 warning"]
    assert report(found[:1])[-1] == "no problems, no warnings"


def test_a_terminal_gets_lines_that_fit() -> None:
    lines = report([Finding(Severity.WARNING, "one two three four")], width=20)
    assert lines[:-1] == ["warning  one two", "         three four"]
