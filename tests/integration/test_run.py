"""``highlanderd run``: the program's exit code, streams and signals pass through; one of many runs at a time."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.commands import NOBODY, as_nobody, highlanderctl
from tests.support.deaths import gone, proc_file, stand_still
from tests.support.journal import CHILD
from tests.support.long import first_of
from tests.support.nodes import Nodes, ends
from tests.support.ports import reserved_port
from tests.support.postgres import Database
from tests.support.runs import LEASE, PATIENCE, Run, Runs
from tests.support.wait import wait_for


def command(pid: int) -> bytes:
    """Return the command line of a process."""
    return proc_file(f"/proc/{pid}/cmdline")


def spoken(run: Run) -> None:
    """Wait until its program has written a line."""
    assert run.process.stdout is not None
    assert run.process.stdout.readline()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 3", 3),
        ("kill -TERM $$", 143),
        pytest.param("exit 0", 0, marks=pytest.mark.long),
        pytest.param("kill -KILL $$", 137, marks=pytest.mark.long),
    ],
)
def test_the_exit_code_is_the_programs_own(runs: Runs, script: str, code: int) -> None:
    assert runs("--", "sh", "-c", script).ended() == (code, "", "")


def test_standard_streams_are_the_programs_own(runs: Runs) -> None:
    run = runs("--", "sh", "-c", "cat; echo wrong >&2")
    assert run.ended("one\ntwo without an end") == (0, "one\ntwo without an end", "wrong\n")


def test_environment_directory_and_umask_are_the_callers(runs: Runs) -> None:
    before = ("sh", "-c", 'umask 027; exec "$@"', "sh")
    run = runs("--name", "x", "--", "sh", "-c", "env; umask; pwd", before=before, PGAPPNAME="theirs")
    code, out, err = run.ended()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert {"PGAPPNAME=theirs", "HIGHLANDER_PROGRAM=x", "HIGHLANDER_EPOCH=1"} <= {*lines}
    assert not [line for line in lines if line.startswith("HIGHLANDER_CONTROL_SOCKET")]
    assert lines[-2:] == ["0027", str(runs.directory)]


@pytest.mark.parametrize("closing", first_of(["<&- >&- 2>&-", ">&-"]))
def test_standard_streams_that_are_closed_are_null_and_the_exit_code_is_the_programs(runs: Runs, closing: str) -> None:
    looks = "readlink /proc/self/fd/1 > seen; exit 3"
    command = (sys.executable, "-m", "highlanderd", "run", "--name", "x", "--", "sh", "-c", looks)
    assert runs.start(("sh", "-c", f'exec "$@" {closing}', "sh", *command)).ended()[0] == 3


def test_a_caller_whose_directory_was_removed_runs_its_command(runs: Runs) -> None:
    command = (sys.executable, "-m", "highlanderd", "run", "--name", "x", "--", "sh", "-c", "exit 3")
    assert (
        runs.start(("sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh", *command)).ended()[0] == 3
    )


def test_nothing_is_left_of_a_run_that_is_killed_while_no_worker_can_start(runs: Runs) -> None:
    run = runs("--name", "x", "--", "true", before=("prlimit", "--nofile=9"))
    [guardian] = wait_for(lambda: run.below(b"--state"), PATIENCE, "it has a guardian")
    run.process.kill()
    wait_for(lambda: gone(guardian), PATIENCE, "it has ended")


def test_what_cannot_be_executed_is_126_or_127_as_with_env(runs: Runs) -> None:
    plain, odd = runs.directory / "plain", runs.directory / "odd"
    plain.write_text("text")
    odd.write_text("#!/nonexistent/interpreter\n")
    odd.chmod(0o755)

    missing, refused, broken = runs("--", "no-such-command"), runs("--", str(plain)), runs("--", str(odd))

    assert [run.ended()[0] for run in (missing, refused, broken)] == [127, 126, 126]


def test_a_command_line_without_sense_is_2(runs: Runs) -> None:
    for words, said in (
        ((), "name a command"),
        (("--", "./a b"), "a program cannot be named 'a b'; give it one with --name"),
        (("--name", "a/b", "--", "true"), "a program cannot be named 'a/b'; write at most 63 letters"),
        (("-n", "-w", "3", "--", "true"), "not allowed with argument"),
        (("--at-most-every", "soon", "--", "true"), "'soon' is no duration"),
        (("--dsn", "embedded", "--", "true"), "an embedded server belongs to one daemon"),
    ):
        code, _, err = runs(*words).ended()
        assert code == 2
        assert said in err


def test_a_dsn_that_is_none_is_78(runs: Runs) -> None:
    code, _, err = runs("--dsn", "db1", "--", "true").ended()
    assert code == 78
    assert err.startswith("highlanderd: --dsn or HIGHLANDER_DSN: is no connection string")


def test_a_dsn_may_stand_in_a_file_and_does_not_reach_the_program(runs: Runs) -> None:
    (runs.directory / "dsn").write_text(f"{runs.dsn}\n")
    (runs.directory / "dsn").chmod(0o600)
    run = runs("--dsn", "file:dsn", "--", "sh", "-c", "echo ${HIGHLANDER_DSN:-none}", HIGHLANDER_DSN="")
    assert run.ended() == (0, "none\n", "")


def test_without_patience_a_led_program_is_75_and_nothing_runs(runs: Runs) -> None:
    first = runs.leading()
    at_once = runs("-n", "--name", "beat", "--", "touch", "ran")
    later = runs("-w", "5", "--name", "beat", "--", "touch", "ran")
    for code, _, err in (at_once.ended(), later.ended()):
        assert code == 75
        assert "highlanderd: beat: led by " in err
    assert not (runs.directory / "ran").exists()
    assert first.process.poll() is None


def test_a_run_is_seen_in_the_cluster_until_it_ends(runs: Runs, database: Database) -> None:
    def written() -> dict[str, tuple[str, bool]]:
        rows = database.sql("SELECT node, state, able, ready FROM highlander.candidate")
        return {node: (state, ready) for node, state, able, ready in rows if able}

    first = runs.leading()
    second = runs("--name", "beat", "--", *CHILD)
    leads, waits = (f"{socket.gethostname()}.run-{run.pid}" for run in (first, second))
    wait_for(lambda: written() == {leads: ("leading", True), waits: ("waiting", False)}, PATIENCE, "both are seen")

    shown = json.loads(highlanderctl(Path("/nonexistent"), "cluster", "--dsn", runs.dsn, "--json").out)
    assert {node["name"] for node in shown["nodes"] if node["present"]} == {leads, waits}
    [beat] = shown["programs"]
    assert (beat["leader"], beat["ready"], beat["candidates"], beat["drift"]) == (leads, True, [waits], [])

    first.process.terminate()
    first.ended()
    wait_for(lambda: waits in written() and leads not in written(), PATIENCE, "only the other one is seen")
    second.process.terminate()
    second.ended()
    left = "SELECT name FROM highlander.node UNION SELECT node FROM highlander.candidate"
    wait_for(lambda: database.sql(left) == [], PATIENCE, "none is seen")


def test_a_run_that_has_succeeded_has_finished_though_no_node_has_it_any_more(runs: Runs, database: Database) -> None:
    assert runs("--name", "job", "--", "true").ended()[0] == 0
    wait_for(lambda: database.sql("SELECT FROM highlander.candidate") == [], PATIENCE, "it is seen no more")
    wait = ("wait", "job", "--timeout", "60s", "--dsn", runs.dsn, "--for", "finished")
    assert highlanderctl(Path("/nonexistent"), *wait).code == 0


@pytest.mark.long
def test_what_has_finished_leads_nowhere_and_what_never_ran_is_unknown(runs: Runs) -> None:
    assert runs("--name", "job", "--", "true").ended()[0] == 0
    wait = ("--timeout", "60s", "--dsn", runs.dsn, "--for")
    assert highlanderctl(Path("/nonexistent"), "wait", "job", *wait, "leading").code == 4
    assert highlanderctl(Path("/nonexistent"), "wait", "other", *wait, "finished").code == 4


def test_a_run_refuses_orders_of_other_nodes_and_is_released_to(runs: Runs, nodes: Nodes, database: Database) -> None:
    [daemon] = nodes(database, "a", programs=["beat", "mail"], lease=LEASE)
    nodes.await_led("beat", "mail")
    run = runs("--name", "beat", "--", *CHILD)
    name = f"{socket.gethostname()}.run-{run.pid}"
    wait_for(lambda: daemon.program("beat")["candidates"] == 1, PATIENCE, "it waits")
    released = highlanderctl(daemon.socket, "release", "beat", "--to", name)
    assert (released.code, released.err) == (0, "")
    refused = highlanderctl(daemon.socket, "restart", "beat")
    assert refused.code == 6
    assert f"takes no orders; `highlanderctl drain {name}` ends it" in refused.err
    assert highlanderctl(daemon.socket, "drain", name).code == 0
    code, _, err = run.ended()
    assert code == 70
    assert "the lead was lost: drained by " in err


def _kill(run: Run) -> None:
    """Kill a command and its daemon at one moment: none of them releases what it leads when another one is gone."""
    pids = (run.pid, run.worker, *run.below(b"--state"))
    stand_still(*pids)
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended with the one before it
            os.kill(pid, signal.SIGKILL)


def test_without_patience_a_lease_that_has_to_be_waited_for_is_75(runs: Runs, database: Database) -> None:
    first = runs.leading()
    _kill(first)
    wait_for(lambda: not database.sql("SELECT FROM pg_stat_activity WHERE application_name LIKE '%/beat'"), PATIENCE)
    assert runs("-n", "--name", "beat", "--", "true").ended()[0] == 75


@pytest.mark.parametrize("words", first_of([("-n",), ("-w", "1")]))
def test_without_patience_a_server_out_of_reach_is_69(runs: Runs, words: tuple[str, ...]) -> None:
    port = reserved_port()
    code, _, err = runs(*words, "--dsn", f"host=127.0.0.1 port={port} dbname=x", "--", "true").ended()
    assert code == 69
    assert "no session with PostgreSQL" in err


@pytest.mark.parametrize("name", first_of(["TERM", "INT", "HUP"]))
def test_a_signal_ends_the_wait(runs: Runs, name: str) -> None:
    runs.leading()
    waiting = runs("--name", "beat", "--", "touch", "ran")
    assert waiting.worker
    waiting.process.send_signal(getattr(signal, f"SIG{name}"))
    assert waiting.ended() == (128 + getattr(signal, f"SIG{name}"), "", "")
    assert not (runs.directory / "ran").exists()


def test_a_run_that_is_stopped_while_it_waits_begins_once_it_is_continued(runs: Runs, database: Database) -> None:
    first = runs.leading()
    waiting = runs("--name", "beat", "--", "touch", "ran")
    of_it = "SELECT reason FROM highlander.candidate WHERE state = 'waiting'"  # the first one has waited, too
    wait_for(lambda: any("led by" in why for (why,) in database.sql(of_it)), PATIENCE, "it waits")
    waiting.process.send_signal(signal.SIGSTOP)
    first.process.terminate()
    wait_for(lambda: any("is stopped" in why for (why,) in database.sql(of_it)), PATIENCE, "it leaves the lead alone")
    assert runs("--name", "beat", "--", "true").ended()[0] == 0
    assert not (runs.directory / "ran").exists()
    waiting.process.send_signal(signal.SIGCONT)
    assert waiting.ended() == (0, "", "")
    assert (runs.directory / "ran").exists()


def test_signals_reach_the_program_and_what_it_makes_of_them_is_its_own(runs: Runs) -> None:
    run = runs("--", sys.executable, "-c", COUNTING)
    spoken(run)
    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
        run.process.send_signal(signum)
        spoken(run)
    run.process.send_signal(signal.SIGTERM)
    assert run.ended() == (9, "", "")


COUNTING = """
import signal, sys
def said(number, frame):
    print(number, flush=True)
    number == signal.SIGTERM and sys.exit(9)
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, said)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
print("ready", flush=True)
while True:
    signal.pause()
"""


def test_what_its_caller_ignores_the_program_ignores(runs: Runs) -> None:
    before = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    run = runs("--", "sh", "-c", "kill -HUP $$; echo lives", before=before)
    assert run.ended() == (0, "lives\n", "")


def test_of_three_at_once_each_runs_in_its_turn(runs: Runs) -> None:
    script = "echo start >>log; sleep 0.2; echo end >>log"
    three = [runs("--name", "turn", "--", "sh", "-c", script) for _ in range(3)]
    assert [run.ended()[0] for run in three] == [0, 0, 0]
    assert (runs.directory / "log").read_text().split() == ["start", "end"] * 3


def test_two_of_one_name_on_one_host_never_run_at_once(runs: Runs) -> None:
    first, second = runs.leading(), runs("--name", "beat", "--", *CHILD)
    first.process.send_signal(signal.SIGTERM)
    assert first.ended()[0] == 0
    wait_for(lambda: len(runs.journal.lives()) == 2, PATIENCE, "the second one runs")
    second.process.send_signal(signal.SIGTERM)
    assert second.ended()[0] == 0


def test_the_tree_dies_with_the_command_that_was_killed(runs: Runs) -> None:
    first, second = runs.leading(), runs("--name", "beat", "--", *CHILD)
    [life] = runs.journal.lives()
    first.process.kill()
    wait_for(lambda: len(runs.journal.lives()) == 2, PATIENCE, "the second one runs")
    assert gone(life.main)
    assert second.process.poll() is None
    wait_for(lambda: len(list(runs.directory.glob("highlanderd-run-*"))) == 1, PATIENCE, "its directory is removed")


def test_the_tree_dies_when_all_of_ours_are_killed(runs: Runs) -> None:
    first = runs.leading()
    [life] = runs.journal.lives()
    _kill(first)
    wait_for(lambda: gone(life.main), PATIENCE, "the program is gone")
    runs.leading()


def test_a_guardian_that_is_killed_is_70_once_the_tree_is_gone(runs: Runs) -> None:
    run = runs.leading()
    [life] = runs.journal.lives()
    os.kill(run.below(b"--front")[0], signal.SIGKILL)
    code, _, err = run.ended()
    assert (code, gone(life.main)) == (70, True)
    assert "its guardian was killed" in err


def test_the_program_lives_on_when_its_worker_dies(runs: Runs) -> None:
    run = runs("--", "sh", "-c", "echo ready; read line; exit 5")
    spoken(run)
    worker = run.worker
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: run.worker != worker, PATIENCE, "there is another worker")
    assert run.ended("go\n")[0] == 5


def test_nothing_runs_a_second_time_when_a_worker_dies_after_the_end(runs: Runs) -> None:
    runs.leading()
    run = runs("--name", "beat", "--", "touch", "ran")
    worker = run.worker
    [home] = [path for path in runs.directory.glob("highlanderd-run-*") if str(path).encode() in command(worker)]
    (home / "running").touch()
    os.kill(worker, signal.SIGKILL)
    code, _, err = run.ended()
    assert code == 70
    assert "nobody knows the exit code" in err
    assert not (runs.directory / "ran").exists()


def test_a_lead_that_is_lost_is_70(runs: Runs, database: Database) -> None:
    run = runs.leading()
    database.sql("UPDATE highlander.lease SET epoch = epoch + 1, renewal = renewal + 1")
    code, _, err = run.ended()
    assert code == 70
    assert "highlanderd: beat: the lead was lost: the ledger says that this term is no longer ours" in err


def test_a_program_that_is_stopped_everywhere_does_not_run(runs: Runs, database: Database) -> None:
    run = runs.leading()
    [(lock_id,)] = database.sql("SELECT lock_id FROM highlander.lease")
    database.sql(
        "INSERT INTO highlander.wish (lock_id, program, author, reason) VALUES (%s, 'beat', 'ann', 'now')", [lock_id]
    )
    database.sql("SELECT pg_notify('highlander', 'ordered')")
    code, _, err = run.ended()
    assert code == 70
    assert "ann" in err
    assert runs("-n", "--name", "beat", "--", "true").ended()[0] == 75


def test_at_most_every_skips_what_has_succeeded_on_any_node(runs: Runs, database: Database) -> None:
    words = ("--name", "nightly", "--at-most-every", "1h", "--", "sh", "-c")
    failed = runs(*words, "echo failed >>log; exit 4").ended()
    ran = runs(*words, "echo ran >>log").ended()
    skipped = runs(*words, "echo skipped >>log").ended()

    assert (failed[0], ran, skipped) == (4, (0, "", ""), (0, "", ""))
    assert (runs.directory / "log").read_text().split() == ["failed", "ran"]
    assert ends(database, "nightly") == ["exited", "finished"]
    again = ("--name", "nightly", "--at-most-every", "0.1", "--", "sh", "-c", "echo again >>log")
    assert runs(*again).ended()[0] == 0
    assert (runs.directory / "log").read_text().split() == ["failed", "ran", "again"]


def test_at_most_every_lets_one_of_many_run_that_start_at_once(runs: Runs) -> None:
    words = ("--name", "nightly", "--at-most-every", "1h", "--", "sh", "-c", "echo ran >>log")
    many = [runs(*words) for _ in range(3)]
    assert [run.ended()[0] for run in many] == [0, 0, 0]
    assert (runs.directory / "log").read_text().split() == ["ran"]


def test_a_daemon_and_a_run_exclude_each_other(runs: Runs, nodes: Nodes, database: Database) -> None:
    run = runs.leading()
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    assert ".run-" in wait_for(lambda: a.program("beat")["leader"], PATIENCE, "a sees who leads")
    [life] = runs.journal.lives()
    run.process.send_signal(signal.SIGTERM)
    assert run.ended()[0] == 0
    nodes.await_led("beat")
    assert gone(life.main)
    code, _, err = runs("-n", "--name", "beat", "--", "true").ended()
    assert code == 75
    assert "led by a" in err


def test_any_user_may_run(runs: Runs) -> None:
    os.chown(runs.directory, NOBODY, NOBODY)
    code, out, err = runs("--", "id", "-u", before=as_nobody()).ended()
    assert (code, out) == (0, "65534\n"), err


def test_nothing_is_left(runs: Runs) -> None:
    assert runs("--", "true", XDG_RUNTIME_DIR=str(runs.directory)).ended()[0] == 0
    assert [path.name for path in Path(runs.directory).iterdir()] == []
