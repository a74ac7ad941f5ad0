"""Claims about the real highlanderctl process against the real socket: what it prints, and what it exits with."""

from __future__ import annotations

import json
import re
from pathlib import Path

from highlanderd.errors import ConfigurationError
from highlanderd.structs import replace
from tests.support.memory_node import MemoryNode, ctl, leading, program, run, serving


def test_status_is_a_table_and_a_healthy_standby_s_exit_is_zero(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("relay", leader="web-2", epoch=3))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "status")
            assert asked.code == 0
            assert asked.err == ""
            lines = asked.out.splitlines()
            assert lines[0].split() == [
                "PROGRAM",
                "STATE",
                "SINCE",
                "LEADER",
                "EPOCH",
                "PID",
                "UPTIME",
                "RESTARTS",
                "REASON",
            ]
            assert re.fullmatch(r"beat +leading +\d+d( \d+[hms])? +web-1 +7 +4007 +1h 2m +0", lines[1])
            assert re.fullmatch(r"relay +waiting +\d+d( \d+[hms])? +web-2 +3 +- +- +0", lines[2])
            assert (await ctl(path, "status", "all")).code == 0
            assert (await ctl(path, "status", "r*")).code == 0

    run(main)


def test_status_of_a_named_program_says_by_its_exit_whether_it_is_led_here(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("relay"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert (await ctl(path, "status", "beat")).code == 0
            asked = await ctl(path, "status", "beat", "relay")
            assert asked.code == 3
            assert len(asked.out.splitlines()) == 3
            assert (await ctl(path, "status", "relay", "--state", "leading")).code == 3
            asked = await ctl(path, "status", "baet")
            assert asked.code == 4
            assert asked.err == ("highlanderctl: no program 'baet' is configured on this node; it has beat, relay\n")

    run(main)


def test_status_of_a_named_program_says_nothing_of_the_others(tmp_path: Path) -> None:
    node = MemoryNode(*(replace(leading(name), candidates=0) for name in ("beat", "relay")))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            everything, one = await ctl(path, "status"), await ctl(path, "status", "beat")
            assert everything.err == "no standby: no other node could take over beat, relay now\n"
            assert one.err == "no standby: no other node could take over beat now\n"

    run(main)


def test_status_as_json_is_what_the_socket_gives(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("relay"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            answer = json.loads((await ctl(path, "status", "--json")).out)
            assert set(answer) >= {"node", "instance", "version", "postgres", "programs"}
            assert [one["name"] for one in answer["programs"]] == ["beat", "relay"]
            answer = json.loads((await ctl(path, "status", "relay", "--json")).out)
            assert [one["name"] for one in answer["programs"]] == ["relay"]

    run(main)


def test_troubles_go_to_standard_error_and_leave_the_table_to_scripts(tmp_path: Path) -> None:
    node = MemoryNode(program("beat", connected=False))
    node.postgres = node.postgres.__class__(False, "db1:5432/ops", None, "connection refused", 10.0, None, 0)
    node.warnings = ("the ledger's lease of 20s overrules the configured 10s",)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "status")
            assert len(asked.out.splitlines()) == 2
            assert asked.err.splitlines() == [
                "warning: PostgreSQL cannot be used: connection refused",
                "warning: the ledger's lease of 20s overrules the configured 10s",
            ]
            assert asked.code == 0

    run(main)


def test_show_tells_everything_and_lets_no_child_steer_the_terminal(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), leading("relay"))
    node.output = ("plain", "\x1b[2Jwiped", "tab\there")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "show", "beat")
            assert asked.code == 0
            assert "lock key     beat (lock id 8735414648771611572)" in asked.out
            assert "command      celery -A 'shop app' beat" in asked.out
            assert (
                "stdout       /var/log/beat; cannot be written: Permission denied\nstderr       inherit\n" in asked.out
            )
            assert "  10  celery\n    11  worker\n      12  sh\n" in asked.out
            assert "\x1b" not in asked.out
            assert json.loads((await ctl(path, "show", "beat", "--json")).out)["lock_key"] == "beat"
            assert (await ctl(path, "show", "nobody/knows")).code == 4
            both = json.loads((await ctl(path, "show", "b*", "relay", "--json")).out)
            assert [one["name"] for one in both["programs"]] == ["beat", "relay"]
            assert "\n\nprogram      relay\n" in (await ctl(path, "show", "all")).out
            assert (await ctl(path, "show", "beat", "x*")).code == 4

    run(main)


def test_pid_prints_nothing_that_kill_could_take_for_a_process_group(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat"), program("relay")), tmp_path) as path:
            asked = await ctl(path, "pid", "beat")
            assert (asked.code, asked.out, asked.err) == (0, "4007\n", "")
            asked = await ctl(path, "pid", "relay")
            assert (asked.code, asked.out) == (3, "")
            assert asked.err == "highlanderctl: relay has no process on this node: it is waiting\n"
            for several in (("all",), ("b*", "relay"), ("beat", "relay")):
                asked = await ctl(path, "pid", *several)
                assert (asked.code, asked.out) == (3, "beat 4007\n")
                assert asked.err.startswith("highlanderctl: relay has no process on this node")

    run(main)


def test_orders_wait_for_many_programs_at_once_and_say_what_became_of_each(tmp_path: Path) -> None:
    names = [f"web-{number}" for number in range(450)]  # more than are under way at once
    node = MemoryNode(*(leading(name) for name in names), leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "stop", "web-*", "--timeout", "60")
            assert (asked.code, asked.err) == (0, "")
            assert asked.out.splitlines() == [f"{name}: stopped on this node; no node leads it now" for name in names]
            assert node.of("beat").state == "leading"
            asked = await ctl(path, "start", "web-7", "web-8")
            assert asked.out == "web-7: leading, epoch 9, pid 4009\nweb-8: leading, epoch 9, pid 4009\n"

    run(main)


def test_release_hands_over(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "release", "beat", "--to", "web-3", "--for", "2m")
            assert (asked.code, asked.out) == (0, "beat: waiting, led by web-3\n")
            asked = await ctl(path, "release", "beat", "--no-wait")
            assert asked.code == 0

    run(main)
    assert node.orders[0] == ("release", "beat", "web-3", 120.0)
    assert node.orders[1][:4] == ("relay", "web-3", "release", "beat")


def test_restart_of_a_name_insists_and_restart_of_all_takes_what_is_here(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("relay"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "restart", "all")
            assert (asked.code, asked.out) == (0, "beat: leading, epoch 8, pid 4008\n")
            asked = await ctl(path, "restart", "beat", "relay")
            assert asked.code == 3
            assert asked.out.startswith("beat: leading, epoch 9")
            assert asked.err.startswith("highlanderctl: restart relay: relay is not led by this node")
            assert (await ctl(path, "restart", "r*")).code == 3

    run(main)


def test_a_job_that_is_started_says_when_its_schedule_wants_it_next(tmp_path: Path) -> None:
    node = MemoryNode(program("nightly", want="stop", idle=True, reason="next run at noon"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "start", "nightly")
            assert (asked.code, asked.out) == (0, "nightly: waiting, next run at noon\n")

    run(main)


def test_an_order_without_wait_says_that_it_was_only_given(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "stop", "beat", "--no-wait")
            assert (asked.code, asked.out) == (0, "beat: stop ordered\n")

    run(main)


def test_what_does_not_happen_in_time_exits_with_seven(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "stop", "beat", "--timeout", "100ms")
            assert asked.code == 7
            assert "still leading after 0.1 s" in asked.err

    run(main)


def test_an_unknown_name_orders_nothing_at_all(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert (await ctl(path, "stop", "beat", "baet")).code == 4

    run(main)
    assert node.orders == []


def test_reload_says_what_it_did_and_what_is_wrong(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            for command in (["reload"], ["update"]):
                asked = await ctl(path, *command)
                assert (asked.code, asked.out) == (0, "beat: changed (umask): drains and starts again here\n")
            for command in (["reload", "--dry-run"], ["reread"]):
                asked = await ctl(path, *command)
                assert asked.out.startswith("A reload would do this:\nbeat: changed")
            node.trouble = ConfigurationError(("a.toml:3: program.beat: no command", "a.toml:9: unknown key"))
            asked = await ctl(path, "reload")
            assert (asked.code, asked.out) == (78, "")
            assert asked.err == "highlanderctl: a.toml:3: program.beat: no command\na.toml:9: unknown key\n"
            asked = await ctl(path, "reload", "--quiet")
            assert (asked.code, asked.out, asked.err) == (78, "", "")
            node.trouble = None
            asked = await ctl(path, "reload", "--quiet")
            assert (asked.code, asked.out, asked.err) == (0, "", "")

    run(main)
    assert node.orders == [("reload", False, False)] * 2 + [("reload", True, False)] * 2 + [("reload", False, False)]


def test_the_ledger_the_version_and_the_end(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "ledger", "show")
            assert asked.out == "schema   highlander\nlease    10s\nsettled  -\n"
            assert json.loads((await ctl(path, "ledger", "show", "--json")).out)["settled"] is None
            asked = await ctl(path, "ledger", "set-lease", "20s")
            assert (asked.code, asked.out.splitlines()[0]) == (0, "the lease is 20s now")
            asked = await ctl(path, "version")
            assert asked.out == "highlanderctl 0.1.0\nhighlanderd 0.1.0 on web-1\n"
            asked = await ctl(path, "shutdown", "--no-wait")
            assert (asked.code, asked.out) == (0, "web-1: releasing all programs, then ending\n")

    run(main)
    assert node.orders == [("lease", 20.0, False), ("shutdown",)]


def test_tsv_is_the_table_s_cells_between_tabs(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat"), program("relay", reason="held\tup")), tmp_path) as path:
            lines = [line.split("\t") for line in (await ctl(path, "-o", "tsv", "status")).out.splitlines()]
            assert lines[0][:2] == ["PROGRAM", "STATE"]
            assert (lines[1][0], lines[1][3], lines[1][5]) == ("beat", "web-1", "4007")
            assert (lines[2][0], lines[2][-1]) == ("relay", "held    up")
            assert (await ctl(path, "pid", "all", "-o", "tsv")).out == "beat\t4007\n"

    run(main)


def test_orders_as_json_tell_the_outcome_of_each_program(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat"), program("relay")), tmp_path) as path:
            asked = await ctl(path, "restart", "beat", "relay", "--json")
            assert asked.code == 3
            beat, relay = json.loads(asked.out)["programs"]
            assert (beat["name"], beat["state"], beat["epoch"]) == ("beat", "leading", 8)
            assert (relay["name"], relay["error"]["code"]) == ("relay", "not_leading")
            for line in (("version",), ("reload",), ("drain", "--no-wait"), ("resume",), ("reopen",), ("pid", "beat")):
                assert json.loads((await ctl(path, *line, "--json")).out)

    run(main)


def test_a_glob_names_what_it_leaves_out_because_no_node_leads_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("web-1"), program("web-2"), leading("beat")), tmp_path) as path:
            for verb in ("restart", "signal HUP", "release --force"):
                done = await ctl(path, *verb.split(), "web*", "--no-wait")
                said = f"highlanderctl: {verb.split()[0]} leaves out what no node leads now: web-2\n"
                assert (done.code, done.err) == (0, said)
            assert (await ctl(path, "restart", "web-1", "--no-wait")).err == ""

    run(main)


def test_a_job_between_its_runs_is_run_by_its_name_alone(tmp_path: Path) -> None:
    async def main() -> None:
        node = MemoryNode(program("nightly", idle=True), program("beat"))
        async with serving(node, tmp_path) as path:
            for names in ("all", "[nb]*"):
                done = await ctl(path, "start", names, "--no-wait")
                said = "highlanderctl: start leaves out what waits for its time: nightly\n"
                assert (done.code, done.out, done.err) == (0, "beat: start ordered\n", said)
            done = await ctl(path, "start", "all", "nightly", "--no-wait")
            assert (done.out, done.err) == ("nightly: start ordered\nbeat: start ordered\n", "")

    run(main)


def test_config_reads_a_file_itself_where_no_daemon_runs(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    state, token = f'state_dir = "{tmp_path}"', 'environment = { TOKEN = "xyzzy" }'
    file.write_text(
        f'[daemon]\n{state}\n[postgres]\ndsn = "host=db1"\n[program.beat]\ncommand = ["true"]\n{token}\n', "utf-8"
    )

    async def main() -> None:
        asked = await ctl(tmp_path / "none", "config", "beat", "--config", str(file))
        assert (asked.code, asked.err) == (0, "")
        assert asked.out.splitlines()[0].split("  # ") == ['command = ["true"]'.ljust(56), f"{file}:6"]
        assert "xyzzy" not in asked.out
        assert (await ctl(tmp_path / "none", "config", "baet", "--config", str(file))).code == 4
        file.write_text("[daemon]\nnod = 7\n")
        assert (await ctl(tmp_path / "none", "config", "beat", "--config", str(file))).code == 78

    run(main)


def test_config_shows_each_key_and_where_it_was_written(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat")), tmp_path) as path:
            asked = await ctl(path, "config", "beat")
            assert (asked.code, asked.err) == (0, "")
            assert [line.split("  # ") for line in asked.out.splitlines()] == [
                ['command = ["sleep", "60"]'.ljust(56), "/etc/highlander.toml:7"],
                ['umask = "022"'.ljust(56), "default"],
            ]
            assert (await ctl(path, "config", "beat", "-o", "tsv")).out.splitlines()[2] == 'umask\t"022"\tdefault'
            assert json.loads((await ctl(path, "config", "beat", "--json")).out)["keys"][0]["value"] == ["sleep", "60"]
            assert (await ctl(path, "config", "baet")).code == 4

    run(main)
