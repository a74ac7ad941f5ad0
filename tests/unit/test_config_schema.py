"""The JSON Schema of the configuration: it has every key, takes what the daemon takes, and refuses unknown keys."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from highlanderd.config import SECTIONS, ProgramKeys, json_schema, load, values

ROOT = Path(__file__).parents[2]
SHIPPED = [*sorted((ROOT / "conf.d").glob("*.toml")), ROOT / "packaging/files/highlander.toml"]
SCHEMA: dict[str, Any] = json_schema.schema()
EVERYTHING = """
[daemon]
node = "${NODE}"
include = "conf.d/*.toml"
[postgres]
dsn = "host=db1"
lease = 4
[control]
mode = "0600"
group = 27
[metrics]
listen = ""
[log]
level = "${LEVEL:-info}"
[defaults]
stop_timeout = "1m30s"
[program.beat]
command = ["celery", "beat"]
lock_key = -5
umask = 0o22
log_max_bytes = "1GiB"
stop_signal = "SIGINT"
success_exit_codes = [0, 3]
environment = {A = "1", B = "file:/proc/sys/kernel/ostype"}
"""


def test_the_schema_has_every_key_and_no_other() -> None:
    program = SCHEMA["properties"]["program"]["additionalProperties"]
    tables: dict[str, type[BaseModel]] = {**SECTIONS, "defaults": ProgramKeys}
    assert {*tables, "program"} == set(SCHEMA["properties"])
    pairs: list[tuple[Any, type[BaseModel]]] = [
        (program, ProgramKeys),
        *((SCHEMA["properties"][name], model) for name, model in tables.items()),
    ]
    for made, model in pairs:
        assert set(made["properties"]) == {info.alias or field for field, info in model.model_fields.items()}
        assert made["additionalProperties"] is False
        assert all(key["description"] for key in made["properties"].values())


@pytest.mark.parametrize(
    ("key", "reads", "samples"),
    [
        ("backoff", values.duration, ["10s", "1m30s", "500ms", "1.5", "10", "2h", "ten", "10 s", "s", "", "-1s"]),
        ("log_max_bytes", values.size, ["50MB", "64MiB", "1 gb", "100b", "50", "MB", "50 megabytes", ""]),
        ("umask", values.octal, ["022", "0o22", "0640", "8", "rwx", "00000", ""]),
    ],
)
def test_the_schema_takes_what_the_daemon_takes(key: str, reads: Any, samples: list[str]) -> None:
    [written, _] = SCHEMA["properties"]["defaults"]["properties"][key]["anyOf"]
    for sample in samples:
        assert bool(re.search(written["pattern"], sample)) == accepted(reads, sample), sample


def accepted(reads: Any, sample: str) -> bool:
    try:
        reads(sample)
    except ValueError:
        return False
    return True


def test_a_string_that_the_environment_completes_passes_the_schema() -> None:
    [written, _] = SCHEMA["properties"]["defaults"]["properties"]["backoff"]["anyOf"]
    assert re.search(written["pattern"], "${BACKOFF:-1s}")


def judged(text: str, directory: Path) -> str:
    """Return what an editor's own judge says about a configuration; nothing when it is content."""
    (directory / "schema.json").write_text(json_schema.text(), "utf-8")
    file = directory / "highlander.toml"
    file.write_text(text, "utf-8")
    taplo = Path(sys.executable).parent / "taplo"
    command = [str(taplo), "lint", "--schema", f"file://{directory}/schema.json", str(file)]
    done = subprocess.run(command, env={**os.environ, "RUST_LOG": "off"}, stderr=subprocess.PIPE, text=True)
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.name)
def test_an_editor_accepts_what_is_shipped(file: Path, tmp_path: Path) -> None:
    assert judged(file.read_text("utf-8"), tmp_path) == ""


def test_an_editor_and_the_daemon_accept_each_way_of_writing(tmp_path: Path) -> None:
    assert judged(EVERYTHING, tmp_path) == ""
    assert load(tmp_path / "highlander.toml", {"NODE": "a", "PATH": "/usr/bin:/bin"}).configuration.daemon.node == "a"


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("node =", "nodes ="),
        ("lease = 4", "leese = 4"),
        ("stop_timeout =", "stopwaitsecs ="),
        ("lock_key =", "lock_keys ="),
        ("[metrics]", "[metric]"),
        ("[program.beat]", "[programs.beat]"),
        ("[program.beat]", "[program.all]"),
        ('"1m30s"', '"ten"'),
        ('"0600"', '"rw"'),
        ("[0, 3]", "[0, 256]"),
        ("-5", "1.5"),
        ('"celery", "beat"', ""),
    ],
)
def test_an_editor_marks_what_is_wrong(written: str, instead: str, tmp_path: Path) -> None:
    assert written in EVERYTHING
    assert "error" in judged(EVERYTHING.replace(written, instead, 1), tmp_path)


def test_it_is_printed_without_any_configuration() -> None:
    command = [sys.executable, "-m", "highlanderd", "-c", "/nonexistent.toml", "--print-json-schema"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert json.loads(printed.stdout) == SCHEMA
