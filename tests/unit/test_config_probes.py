"""What `ready` and `alive` may say, and what is said about what they may not."""

from __future__ import annotations

import pytest

from highlanderd.config.probes import (
    Delay,
    ExecCheck,
    HttpCheck,
    Notify,
    Probe,
    TcpCheck,
    liveness,
    readiness,
)
from tests.support.configuration import POSTGRES, loaded, problems


def one(text: str) -> str:
    (problem,) = problems(f'{POSTGRES}[program.x]\ncommand = "x"\n{text}\n')
    return problem


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1m30s", Delay(90.0)),
        (0, Delay(0.0)),
        ("notify", Notify()),
        ({"tcp": "db.example:5432"}, Probe(TcpCheck("db.example", 5432))),
        ({"tcp": "[::1]:80", "period": "1s"}, Probe(TcpCheck("::1", 80), period=1.0)),
        ({"exec": "pg_isready -q"}, Probe(ExecCheck(("pg_isready", "-q")))),
        (
            {"exec": ["sh", "-c", "true"], "timeout": 9, "threshold": 1},
            Probe(ExecCheck(("sh", "-c", "true")), 10, 9, 1),
        ),
        ({"http": "http://a:8000"}, Probe(HttpCheck("a", 8000, "a:8000", "/", False))),
        ({"http": "https://a/b?c=d"}, Probe(HttpCheck("a", 443, "a", "/b?c=d", True))),
        ({"http": "http://[::1]:80/"}, Probe(HttpCheck("::1", 80, "[::1]:80", "/", False))),
    ],
)
def test_what_is_written_is_understood(written: object, meant: object) -> None:
    assert readiness(written) == meant
    if not isinstance(meant, Delay):
        assert liveness(written) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('ready = "soon"', '5: program.x.ready: "soon" does not say when the program is ready; write how long'),
        ("ready = true", "5: program.x.ready: true does not say when the program is ready"),
        ('alive = "1s"', '5: program.x.alive: "1s" does not say that the program is well; write "notify", or a table'),
        ("ready = {}", "5: program.x.ready: names neither http, tcp nor exec; write one of them"),
        ('ready = { htpp = "http://a" }', '5: program.x.ready: has no "htpp"; it takes http, tcp, exec, period'),
        ('ready = { http = "http://a", tcp = "a:1" }', "5: program.x.ready: names http and tcp at once; write one"),
        ('ready = { http = "a:80" }', '5: program.x.ready: asks for http = "a:80", which is no URL to ask for; write'),
        ('ready = { http = "ftp://a" }', '5: program.x.ready: asks for http = "ftp://a", which is no URL'),
        ('ready = { http = "http://a:port/" }', '5: program.x.ready: asks for http = "http://a:port/", which is no'),
        (
            'ready = { http = "http://a:70000/" }',
            '5: program.x.ready: asks for http = "http://a:70000/", whose port is 70000;',
        ),
        ('ready = { http = "http://a/ b" }', '5: program.x.ready: asks for http = "http://a/ b", which is no URL'),
        ('ready = { http = "http://a/\\r\\nX: y" }', "5: program.x.ready: asks for http = "),
        ('ready = { http = "http://u:p@a/" }', "5: program.x.ready: has a user in its URL, which is not sent; let"),
        ('ready = { http = "http://a..b/" }', '5: program.x.ready: names the host "a..b" in http, which is no name;'),
        (f'ready = {{ tcp = "{"a." * 130}b:1" }}', '5: program.x.ready: names the host "a.a.a.a.'),
        ("ready = { http = 80 }", "5: program.x.ready: asks for http = 80, which is no URL to ask for; write"),
        ('ready = { tcp = "80" }', '5: program.x.ready: asks for tcp = "80", which is not HOST:PORT; write'),
        (
            'ready = { tcp = "a:0" }',
            '5: program.x.ready: asks for tcp = "a:0", whose port is 0; write one from 1 to 65535',
        ),
        ('ready = { tcp = "::1:80" }', '5: program.x.ready: asks for tcp = "::1:80", which is not HOST:PORT; write'),
        ("ready = { exec = [] }", "5: program.x.ready: has an exec that is empty; write a command"),
        ('alive = { tcp = "a:1", threshold = 0 }', "5: program.x.alive: gives threshold 0; write how many failures"),
        (
            'alive = { tcp = "a:1", threshold = "3" }',
            '5: program.x.alive: gives threshold "3"; write how many failures',
        ),
        ('alive = { tcp = "a:1", period = "0s" }', '5: program.x.alive: gives period "0s"; write a duration from'),
        ('alive = { tcp = "a:1", timeout = "often" }', '5: program.x.alive: gives timeout a value: "often" is not a'),
        ("ready_timeout = 0", '5: program.x.ready_timeout: "0s" would end every term; write a duration from'),
        ('alive = "notify"\nalive_timeout = 0', '6: program.x.alive_timeout: "0s" would end every term; write'),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_cure(text: str, said: str) -> None:
    assert one(text).startswith(said)


def test_variables_are_expanded_in_probes_too() -> None:
    text = '[program.x]\ncommand = "x"\nalive = { http = "http://127.0.0.1:${PORT}/" }\n'
    alive = loaded(POSTGRES + text, environ={"PORT": "8123"}).configuration.programs["x"].alive
    assert isinstance(alive, Probe)
    assert alive.check == HttpCheck("127.0.0.1", 8123, "127.0.0.1:8123", "/", False)


def test_a_threshold_in_ready_has_no_effect_and_is_warned_of() -> None:
    text = (
        '[program.x]\ncommand = "x"\nready = { tcp = "a:1", threshold = 2 }\nalive = { tcp = "a:1", threshold = 2 }\n'
    )
    said = "5: program.x.ready: has a threshold, which has no effect: one good answer is enough; write it in alive"
    assert said in "\n".join(loaded(POSTGRES + text).warnings)
    assert not any("program.x.alive" in one for one in loaded(POSTGRES + text).warnings)
