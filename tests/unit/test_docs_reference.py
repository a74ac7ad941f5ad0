"""The reference says what the code says: nothing is stale, and nothing is left out."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from highlanderd import errors
from highlanderd.config import SECTIONS, ProgramKeys
from highlanderd.config.program import RESERVED
from highlanderd.core import machine
from highlanderd.core.states import Cause
from highlanderd.core.transitions.context import bug
from highlanderd.ctl.commands import COMMANDS
from highlanderd.worker.changes import APPLIED_AT_ONCE

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"

PROMISED_METRICS = """
    build_info config_last_reload_successful config_last_reload_timestamp_seconds event_loop_lag_seconds kills_total
    leaderless_seconds lease_remaining_seconds maintenance node_drained output_lines_total pool_connections
    postgres_connected program_candidates program_cpu_seconds_total program_drift program_epoch program_exits_total
    program_failed_exits_total program_failures program_finished program_last_exit_code program_leading
    program_memory_bytes
    program_next_run_timestamp_seconds program_oom_kills_total program_open_files program_processes program_ready
    program_start_time_seconds program_state program_tasks program_transitions_total program_wanted reattached_total
    renew_duration_seconds renew_failures_total schedule_skips_total stop_duration_seconds takeover_duration_seconds
    terms_ended_total
"""
"""Dashboards and alerts name them: they are only ever added to."""


def of_docs(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "docs/generate")
    return importlib.import_module(name)


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return of_docs("generate", monkeypatch)


def page(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


def test_no_page_is_stale(generate: ModuleType) -> None:
    pages = [str(path.relative_to(ROOT)) for path in generate.stale()]
    assert not pages, f"run make docs: {', '.join(pages)} say something else than the code"


def test_a_page_that_was_changed_by_hand_is_stale(generate: ModuleType) -> None:
    text = page("metrics.md")
    assert generate.renewed(text) == text
    assert generate.renewed(text.replace("highlander_build_info", "highlander_built")) == text


def test_every_block_is_on_a_page(generate: ModuleType) -> None:
    text = "".join(path.read_text("utf-8") for path in generate.pages())
    assert [name for name in generate.BLOCKS if f"<!-- begin {name} -->" not in text] == []


def test_every_configuration_key_is_documented() -> None:
    text = page("configuration.md")
    tables: dict[str, type[BaseModel]] = {**SECTIONS, "": ProgramKeys}
    for table, model in tables.items():
        for name, field in model.model_fields.items():
            key = f"{table}.{field.alias or name}".removeprefix(".")
            heading = f"### `{key}`\n"
            assert heading in text, key
            assert len(text.split(heading)[1].split("### ")[0].split()) > 3, f"{key} has no description"


def test_every_key_that_a_reload_applies_at_once_is_documented_as_such() -> None:
    (row,) = (line for line in page("configuration.md").splitlines() if "| applied at once" in line)
    assert {f"`{key}`" for key in APPLIED_AT_ONCE} == set(row.split("|")[1].strip().split(", "))


def test_every_command_is_documented() -> None:
    text = page("commands.md")
    assert [name for name in COMMANDS if f"### `highlanderctl {name}`" not in text] == []


def test_every_exit_code_is_documented() -> None:
    codes = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    text = page("commands.md").split("## Exit codes")[1]
    assert codes
    assert [code for code in codes if f"| `{code}` |" not in text] == []


def test_every_metric_is_documented(generate: ModuleType) -> None:
    text = page("metrics.md")
    families = generate.metric_families()
    assert [family.name for family in families if not family.samples] == [], "let metric_families() feed it once"
    names = [family.name for family in families]
    assert names
    assert [name for name in names if f"`{name}" not in text] == []


def test_no_metric_that_people_watch_has_lost_its_name(generate: ModuleType) -> None:
    shown = {family.name + ("_total" if family.type == "counter" else "") for family in generate.metric_families()}
    assert [name for name in PROMISED_METRICS.split() if f"highlander_{name}" not in shown] == []


def test_every_endpoint_is_documented(generate: ModuleType) -> None:
    control, listener = generate.endpoints("/v1/"), [one for one in generate.endpoints("/") if "/v1/" not in one[1]]
    assert ("POST", "/v1/programs/{name}/release") in control
    assert ("GET", "/leader/{program}") in listener
    for endpoints, text in ((control, page("control-api.md")), (listener, page("metrics.md"))):
        assert [one for one in endpoints if f"| `{one[0]} {one[1]}` |" not in text] == []


def test_every_variable_of_the_child_is_documented() -> None:
    text = page("child.md")
    assert [name for name in RESERVED if f"| `HIGHLANDER_{name}` |" not in text] == []


def test_every_cause_of_a_terms_end_is_explained() -> None:
    text = page("states.md").split("| cause | afterwards, on this node |")[1]
    assert [cause.value for cause in Cause if f"| `{cause.value}` |" not in text] == []


def test_the_walk_that_draws_the_diagram_tries_every_cell_that_can_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tried = of_docs("transitions", monkeypatch).walk()
    possible = {
        (state, event) for state, cells in machine.TABLE.items() for event, cell in cells.items() if cell is not bug
    }
    assert tried == possible
