"""Every problem is told at once, at its file and line, with its key and with what to write instead."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from highlanderd.config import check
from highlanderd.config.toml import whole
from tests.support.configuration import POSTGRES, loaded, problems


def one(text: str, environ: dict[str, str] | None = None) -> str:
    """Return the only problem of a file that is otherwise right."""
    (problem,) = problems(POSTGRES + text, environ)
    return problem


def test_all_problems_come_at_once_by_file_and_line() -> None:
    found = problems(
        '[program.z]\nuser = "a b"\n[postgres]\nlease = "1s"\n[log]\nlevel = "loud"\n'
        '[daemon]\nnode = ""\ninclude = ["extra.toml"]\n',
        extra='[program.y]\ncommand = "x"\nrestart = "maybe"\n[log]\n',
    )
    assert [problem.split(": ")[:2] for problem in found] == [
        ["/etc/extra.toml:3", "program.y.restart"],
        ["/etc/extra.toml:4", "log"],
        ["1", "program.z.command"],
        ["2", "program.z.user"],
        ["3", "postgres.dsn"],
        ["4", "postgres.lease"],
        ["6", "log.level"],
        ["8", "daemon.node"],
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[daemon]\nnod = "x"', "4: daemon.nod: there is no such key in [daemon]; write node"),
        ("[metrics]\nlease = 1", "4: metrics.lease: there is no such key in [metrics]; it belongs in [postgres]"),
        (
            '[defaults]\nstop-signal = "x"',
            "4: defaults.stop-signal: there is no such key in [defaults]; write stop_signal",
        ),
        ("[programm.x]", "3: programm: there is no such table; write [program.NAME]"),
        ("[metric]", "3: metric: there is no such table; write [metrics]"),
        ("[supervisord]", "3: supervisord: this is supervisord's spelling; write [daemon] and [log]"),
        ('[program]\ncommand = "x"', "4: program.command: is a string; a program needs a name: write [program.NAME]"),
        ('[control]\nmode = "rw"', '4: control.mode: "rw" is not an octal mode; write octal digits'),
        ('[metrics]\nlisten = ":80"', '4: metrics.listen: ":80" is not ADDRESS:PORT; write'),
        ('[metrics]\nlisten = "::1:80"', '4: metrics.listen: "::1:80" is not ADDRESS:PORT; write'),
        ('[metrics]\nlisten = "a:70000"', '4: metrics.listen: "a:70000" ends with port 70000; write one'),
        ('[metrics]\nadvertise = "http://a:0"', '4: metrics.advertise: "http://a:0" ends with port 0; write one from'),
        ('[log]\nformat = "xml"', '4: log.format: "xml" is not a choice; write "text" or "json"'),
        ('[daemon]\nnamespace = "a/b"', '4: daemon.namespace: "a/b" is not a usable name; write'),
        (f'[daemon]\nrun_dir = "/{"x" * 100}"', "4: daemon.run_dir: "),
        ('[program."a b"]\ncommand = "x"', '3: program."a b": "a b" is not a usable name; write'),
        ('[program.all]\ncommand = "x"', '3: program.all: "all" is what highlanderctl calls every program; choose'),
        ("[program.x]", "3: program.x.command: is missing; write command = ["),
        ("[program.x]\ncommand = []", "4: program.x.command: is empty; write"),
        ('[program.x]\ncommand = ""', "4: program.x.command: is empty; write"),
        ("[program.x]\ncommand = 3", "4: program.x.command: is an integer; write an array"),
        ('[program.x]\ncommand = ["a", 3]', "4: program.x.command: word 2 is an integer; write a string in quotes"),
        ('[program.x]\ncommand = "a \'b"', "4: program.x.command: cannot be split into words (no closing quotation);"),
        ('[program.x]\ncommand = [\n"a",\n"${NO}"\n]', "6: program.x.command[1]: NO is not set in the daemon's"),
        ('[program.x]\ncommand = "${NO:-} a"', "4: program.x.command: expands to nothing, and it is the program's"),
        ('[program.x]\ncommand = "x"\nlock_key = ""', '5: program.x.lock_key: "" cannot be a lock key; write'),
        ('[program.x]\ncommand = "x"\nlock_key = [1]', "5: program.x.lock_key: [1] cannot be a lock key; write two"),
        ('[program.x]\ncommand = "x"\nlock_key = [1, "a"]', '5: program.x.lock_key: [1, "a"] cannot be a lock key;'),
        ('[program.x]\ncommand = "x"\nlock_key = [1, 2147483648]', "5: program.x.lock_key: 2147483648 does not fit"),
        (
            '[program.x]\ncommand = "x"\nlock_key = 9223372036854775808',
            "5: program.x.lock_key: 9223372036854775808 does",
        ),
        ('[program.x]\ncommand = "x"\numask = 22', "5: program.x.umask: 22 is not an octal mode; write"),
        ('[program.x]\ncommand = "x"\nenvironment = 3', "5: program.x.environment: is an integer; write a table"),
        ('[program.x]\ncommand = "x"\nenvironment.A = 3', "5: program.x.environment.A: is an integer; write a string"),
        (
            '[program.x]\ncommand = "x"\n[program.x.environment]\nHIGHLANDER_EPOCH = "1"',
            "6: program.x.environment.HIGH",
        ),
        ('[program.x]\ncommand = "x"\ninherit_environment = "A"', '5: program.x.inherit_environment: "A" is a string;'),
        ('[program.x]\ncommand = "x"\nbackoff = "2m"', '5: program.x.backoff: makes backoff_max ("1m") of program x'),
        ('[program.x]\ncommand = "x"\nbackoff = 0', '5: program.x.backoff: "0s" would start a broken program in a'),
        ('[program.x]\ncommand = "x"\nstop_to = "all"', '5: program.x.stop_to: "all" is not a choice; write "tree" or'),
        (
            '[program.x]\ncommand = "x"\nsuccess_exit_codes = "0,2"',
            '5: program.x.success_exit_codes: "0,2" is a string;',
        ),
        (
            '[program.x]\ncommand = "x"\nsuccess_exit_codes = [0,\n999]',
            "6: program.x.success_exit_codes[1]: 999 is not",
        ),
        (
            '[program.x]\ncommand = "x"\nlimits = 3',
            "5: program.x.limits: is an integer; write a table, such as",
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.files = 3',
            '5: program.x.limits: has no "files"; its limits are',
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.LimitNOFILE = 3',
            '5: program.x.limits: has no "LimitNOFILE"; write',
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.as = "big"',
            '5: program.x.limits: gives as "big", which is no size;',
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.MemoryMax = "1G"',
            '5: program.x.limits: has no "MemoryMax"; write memory_max',
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.memory_max = 512',
            '5: program.x.limits: gives memory_max 512, in which no program starts; write "16MiB" or more',
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.memory_max = "1G"',
            '5: program.x.limits: gives memory_max "1G", which is no size; write for example "2GiB",',
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.cpu_max = "much"',
            '5: program.x.limits: gives cpu_max "much", which is no number of processors; write how many it may use,',
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.cpu_max = true',
            "5: program.x.limits: gives cpu_max true, which is no number of processors;",
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.cpu_max = 0',
            "5: program.x.limits: gives cpu_max 0, which the kernel does not take; write 0.01 to 8192 processors",
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.tasks_max = 0',
            "5: program.x.limits: gives tasks_max 0, with which nothing can be started; write 1 or more",
        ),
        (
            '[program.x]\ncommand = "x"\nlimits.nofile = 0',
            "5: program.x.limits: gives nofile 0, with which nothing can be started; write 4 or more",
        ),
        ('[program.x]\ncommand = "x"\nprefer = ["a", "b", "a"]', '5: program.x.prefer: names "a" twice; remove one'),
        ('[program.x]\ncommand = "x"\nnever = ["a", "a"]', '5: program.x.never: names "a" twice; remove one of them'),
        ('[program.x]\ncommand = "x"\nlimits.nproc = "9"', '5: program.x.limits: gives nproc "9", which is no number;'),
        ('[program.x]\ncommand = "x"\nnice = 20', "5: program.x.nice: 20 is not a nice value; write a number from -20"),
        ('[program.x]\ncommand = "x"\noom_score_adj = "x"', '5: program.x.oom_score_adj: "x" is not an adjustment of'),
        ('[program.x]\ncommand = "x"\nstdout = "none"', '5: program.x.stdout: "none" is none of "inherit", "null" and'),
        ('[program.x]\ncommand = "x"\ndirectory = "~/x"', '5: program.x.directory: a "~" is not expanded; write'),
        ("[defaults]\nstop_timeout = []", "4: defaults.stop_timeout: [] is not a duration; write"),
    ],
)
def test_a_problem_names_line_key_and_cure(text: str, said: str) -> None:
    assert one(text).startswith(said)


def test_a_key_that_is_a_tables_name_is_told_apart() -> None:
    assert problems("log = 1\nprogram = 3\nlease = 2\n" + POSTGRES) == [
        "1: log: is an integer; write a table: [log]",
        "2: program: is an integer; write a table for each program: [program.NAME]",
        "3: lease: a key cannot stand outside a table; it belongs in [postgres]",
    ]


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ('"db1"', "is no connection string; write"),
        ('""', "is no connection string; write"),
        ("3", "is an integer; write a string"),
        ('"embedded:"', "is empty; write a path"),
        ('"file:/nowhere"', "the secret in /nowhere cannot be read: no such file or directory; name"),
        ('"host=a,b,c port=1,2"', "names 3 hosts but 2 ports; write one port for all of them, or as many as there are"),
        ('"host=a port=1,2"', "names 1 host but 2 ports; write one port for all of them, or as many as there are"),
        (
            f'"host=db1,{"d" * 64}.lan"',
            "holds a host with a part that is empty or has more than 63 letters; correct it",
        ),
        ('"postgresql://a..b/ops"', "holds a host with a part that is empty or has more than 63 letters; correct it"),
        ('"file:$CREDENTIALS_DIRECTORY/dsn"', 'the path "$CREDENTIALS_DIRECTORY/dsn" holds a "$" that nothing'),
        ('"postgresql://db/ops?hots=x"', 'libpq cannot read it: invalid URI query parameter: "hots"; correct'),
    ],
)
def test_a_bad_dsn_is_refused_with_a_cure(dsn: str, said: str) -> None:
    (problem,) = problems(f"[postgres]\ndsn = {dsn}\n")
    assert problem.startswith(f"2: postgres.dsn: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[program:beat]",
            "1: this is not TOML: expected ']' at the end of a table declaration (column 9); write a prog",
        ),
        ("a = 1\nb = yes", "2: this is not TOML: invalid value (column 5); write true or false"),
        (
            "umask = 022",
            "1: this is not TOML: expected newline or end of document after a statement (column 10); write an",
        ),
        (
            "stop = 10s",
            "1: this is not TOML: expected newline or end of document after a statement (column 10); write a d",
        ),
        ("command = celery beat", "1: this is not TOML: invalid value (column 11); write a string in quotes"),
        ("; x", "1: this is not TOML: invalid statement (column 1); a comment begins with #"),
        ("[program.a]\n[program.a]", "2: this is not TOML: cannot declare [program.a] twice (column 11); correct this"),
        ("[a]\n[a]", "2: this is not TOML: cannot declare [a] twice (column 3); correct this line"),
        ("a = 1\na = 2", "2: this is not TOML: cannot overwrite a value (column 6); correct this line"),
        ("\ufeffa = 1", "1: the file begins with a byte order mark; save"),
    ],
)
def test_bad_toml_is_told_with_its_line_and_what_was_meant(text: str, said: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (FileNotFoundError(2, "x"), "there is no such file; create it"),
        (IsADirectoryError(21, "x"), "this is a directory; name a file"),
        (PermissionError(13, "x"), "this user may not read it; run as another user"),
        (OSError(5, "Input/output error"), "it cannot be read (input/output error); name"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem_of_the_key_that_names_it(content: OSError, said: str) -> None:
    (problem,) = problems('[daemon]\ninclude = [\n"extra.toml"]\n' + POSTGRES, extra=content)
    assert problem.startswith(f"3: daemon.include[0]: /etc/extra.toml: {said}")


def test_a_file_in_another_encoding_is_refused_at_its_line() -> None:
    (problem,) = problems('[daemon]\ninclude = "extra.toml"\n' + POSTGRES, extra=b"a = 1\nb = '\xff'\n")
    assert problem == "/etc/extra.toml:2: this line is not UTF-8; save the file in that encoding"


def test_a_file_without_an_end_fills_no_memory() -> None:
    judgement = check(Path("/dev/zero"), {})
    assert judgement.problems == (
        "/dev/zero: it cannot be read (file too large); name another file, or mend the file system",
    )


def test_a_pipe_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "conf.toml")
    [said] = check(tmp_path / "conf.toml", {}).problems
    assert said.endswith(
        "it cannot be read (it is a pipe that no process writes to); name another file, or mend the file system"
    )


def test_a_pipe_is_read_to_its_end_like_a_shells() -> None:
    reading, writing = os.pipe()

    def write() -> None:
        os.write(writing, b"[colours]\n")
        os.close(writing)

    writer = threading.Timer(0.2, write)
    writer.start()
    try:
        assert whole(Path(f"/dev/fd/{reading}")) == b"[colours]\n"
    finally:
        writer.join()
        os.close(reading)


@pytest.mark.parametrize("opening", ["[", "{x="])
def test_a_file_of_nothing_but_brackets_is_refused_with_a_sentence(opening: str) -> None:
    (problem,) = problems("a = " + opening * 100_000)
    assert "nested too deep" in problem


def test_a_program_defined_twice_names_both_places() -> None:
    (problem,) = problems(
        '[program.beat]\ncommand = "x"\n[daemon]\ninclude = "extra.toml"\n' + POSTGRES,
        extra='\n[program.beat]\ncommand = "x"\n',
    )
    said = (
        "/etc/extra.toml:2: program.beat: is defined at /etc/highlander.toml:1 already; remove one of them or rename it"
    )
    assert problem == said


def test_two_programs_with_one_lock_id_are_refused_whatever_their_keys_look_like() -> None:
    # The integer is what "highlander/beat" hashes to.
    programs = '[program.beat]\ncommand = "x"\n[program.relay]\ncommand = "y"\nlock_key = 8735414648771611572\n'
    assert one(programs) == (
        "7: program.relay.lock_key: gives program relay the lock id 8735414648771611572, which program beat "
        "(/etc/highlander.toml:3) has already; give one of them another lock_key"
    )


def test_a_lock_key_in_the_defaults_is_the_same_for_all_and_so_refused() -> None:
    said = one('[defaults]\nlock_key = "x"\n[program.a]\ncommand = "a"\n[program.b]\ncommand = "b"\n')
    assert said.startswith("4: defaults.lock_key: gives program b the lock id")


def test_a_mistake_in_the_defaults_is_told_once_and_where_it_is() -> None:
    text = '[defaults]\nuser = 1.5\n[program.a]\ncommand = "a"\n[program.b]\ncommand = "b"\n'
    assert one(text).startswith("4: defaults.user: ")


def test_a_mistake_in_the_defaults_shows_even_where_every_program_has_its_own() -> None:
    text = '[defaults]\nuser = 1.5\n[program.a]\ncommand = "a"\nuser = "x"\n'
    assert one(text).startswith("4: defaults.user: ")


def test_a_secret_is_never_quoted() -> None:
    environ = {"SECRET": "hunter2"}
    found = problems('[postgres]\ndsn = "${SECRET}"\n[program.x]\ncommand = "x"\nenvironment = "${SECRET}"\n', environ)
    assert len(found) == 2
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("before_start = []", "program.x.before_start: is empty; write a command"),
        (
            'prefer = ["a", "b"]\nnever = ["b"]',
            'program.x.never: names "b", which prefer names as well; remove it from',
        ),
        (
            'failback = "500ms"',
            'program.x.failback: "500ms" would move the program back and forth; write "1s" or longer',
        ),
        ('prefer = ["a node"]', 'program.x.prefer[0]: "a node" is not a usable name; write'),
    ],
)
def test_what_cannot_be_meant_of_nodes_and_hooks_is_refused(keys: str, said: str) -> None:
    assert said in one(f'[program.x]\ncommand = "x"\n{keys}')


def test_what_could_never_start_is_refused() -> None:
    program = '[program.{}]\ncommand = "x"\nafter = {}\n'
    assert 'program.a.after: names "db", which is no program here; define it' in one(program.format("a", '["db"]'))
    circle = program.format("a", '["b"]') + program.format("b", '["c"]') + program.format("c", '["a"]')
    assert 'program.a.after: makes a circle: "a" after "b" after "c" after "a"; none of them could' in one(circle)
    assert 'makes a circle: "a" after "a"' in one(program.format("a", '["a"]'))
    assert not problems(
        POSTGRES + program.format("a", '["b", "c"]') + program.format("b", '["c"]') + program.format("c", [])
    )


@pytest.mark.parametrize("key", ["liveness", "affinity", "max_failures"])
def test_keys_of_later_versions_are_unknown(key: str) -> None:
    assert f"program.x.{key}: there is no such key" in one(f'[program.x]\ncommand = "x"\n{key} = 1')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[postgres]\ndsn = "embedded"\nlease = 3', '3: postgres.lease: "3s" is too short to save the children of a'),
        (
            '[postgres]\ndsn = "host=a,b"',
            "2: postgres.dsn: names several hosts, and libpq takes the first that answers",
        ),
        (POSTGRES + '[daemon]\nnode = "localhost"', '4: daemon.node: is "localhost", as on any other host; give'),
        (
            POSTGRES + '[program.x]\ncommand = "x"\nfailback = "10m"',
            "5: program.x.failback: has no effect without prefer; name the nodes",
        ),
        (POSTGRES + '[program.x]\ncommand = "a && b"', '4: program.x.command: hands "&&" to the program as it is'),
        (
            POSTGRES + '[program.x]\ncommand = "a"\nbefore_start = "a | b"',
            '5: program.x.before_start: hands "|" to the',
        ),
        (POSTGRES + '[program.x]\ncommand = "a"\nalive = { exec = "a > b" }', '5: program.x.alive: hands ">" to the'),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(text: str, said: str) -> None:
    warnings = loaded(text + "\n[program.y]\ncommand = ['y']\n").warnings
    assert [warning.removeprefix("/etc/highlander.toml:")[: len(said)] for warning in warnings] == [said]


def test_a_daemon_without_programs_is_warned_of() -> None:
    (warning,) = loaded(POSTGRES).warnings
    assert warning.endswith(": program: there is no program to run; add [program.NAME] with a command")


def test_several_hosts_with_a_wish_for_the_primary_are_no_warning() -> None:
    dsn = "postgresql://db1,db2/ops?target_session_attrs=read-write"
    assert loaded(f'[postgres]\ndsn = "{dsn}"\n[program.y]\ncommand = "y"\n').warnings == ()


def test_keys_of_log_files_have_no_effect_without_one() -> None:
    keys = 'log_max_bytes = "1MB"\nlog_backups = 2\nlog_compress = true\nlog_timestamps = true\n'
    text = f'{POSTGRES}\n[program.y]\ncommand = "y"\nstderr = "null"\n{keys}'
    warnings = loaded(text).warnings
    assert len(warnings) == 3
    assert all("has no effect without a log file" in warning for warning in warnings)
    assert "log_compress" in "".join(warnings)
    assert loaded(f'{text}stdout = "/var/log/y"\n').warnings == ()


def test_a_file_that_several_programs_rotate_is_warned_of_once() -> None:
    table = '[program.{}]\ncommand = "x"\nstdout = "/var/log/x"\nstderr = "/var/log/x"\n{}'
    text = POSTGRES + "".join(table.format(name, "") for name in "abc")
    (warning,) = loaded(text).warnings
    assert "program.a.stdout: /var/log/x is a file of a, b, c, and what one of them rotates costs lines" in warning
    assert loaded(POSTGRES + table.format("a", "")).warnings == ()
    assert loaded(POSTGRES + "".join(table.format(name, "log_max_bytes = 0\n") for name in "ab")).warnings == ()
