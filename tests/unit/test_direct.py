"""Claims about questions to PostgreSQL itself, where no daemon runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from highlanderd.direct import __main__ as direct


def test_the_embedded_server_of_a_configuration_is_asked_on_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f'[daemon]\nstate_dir = "{tmp_path}"\n[postgres]\ndsn = "embedded:pg"\n', "utf-8")
    monkeypatch.setenv("HIGHLANDER_CONFIG", str(file))
    monkeypatch.setattr("sys.argv", ["direct", "/v1/cluster"])
    assert direct.main() == 1
    said = json.loads(capsys.readouterr().out)["error"]["message"]
    assert said.startswith("PostgreSQL does not answer: ")  # nobody has started it
    assert str(tmp_path / "pg") in said


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("embedded", "--dsn takes a connection string such as "),
        ("embedded:/srv/secret", "--dsn takes a connection string such as "),
        ("file:secret", "--dsn takes a connection string such as "),
        ("secret", "--dsn: libpq cannot read it: "),
        ("hots=secret", '--dsn: libpq cannot read it: invalid connection option "hots"'),
        ("host=a,b port=1,2,3", "--dsn: names 2 hosts but 3 ports"),
    ],
)
def test_what_is_no_connection_string_is_a_usage_error_that_names_the_option(
    dsn: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HIGHLANDER_DSN", dsn)
    monkeypatch.setattr("sys.argv", ["direct", "/v1/cluster"])
    assert direct.main() == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], "secret" in error["message"]) == ("bad_request", False)
    assert error["message"].startswith(said)
