"""Writes what the code already says into these pages: keys, options, metrics, endpoints, states, modules.

A page holds the words. Between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` it holds a block, and each block is a
function here that reads the code. ``make docs`` writes them; with ``--check`` nothing is written, and what is stale is
named. Nothing is invented here: where a text is wrong, the code's own text has to be mended.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import house
import messages
import openapi
import options
import transitions
from prometheus_client.parser import text_string_to_metric_families
from tables import first_sentence, member_docstrings, rows

import highlanderd
from highlanderd.core import status
from highlanderd.listeners.metrics import Metrics
from highlanderd.listeners.orders import ORDERS
from highlanderd.postgres import ledger
from highlanderd.structs import replace

HERE: Final = Path(__file__).parents[1]
ROOT: Final = HERE.parent
PACKAGE: Final = Path(highlanderd.__file__).parent


# --------------------------------------------------------------------------------------------------------- listeners

Family = Any  # prometheus_client.Metric is not exported with its type


def metric_families() -> list[Family]:
    """Return every metric of the page, by feeding the recorder one of each kind."""
    metrics = Metrics()
    metrics.transition("beat", "waiting", "leading")
    metrics.exited("beat", 0)
    metrics.exit_failed("beat", 256)
    metrics.term_ended("beat", "released")
    metrics.skipped("beat", "missed", 1)
    metrics.killed("beat", "deadline")
    metrics.oom_killed("beat", 1)
    for kind in ("lines", "bytes", "dropped"):
        metrics.output("beat", "stdout", kind, 1)
    return list(text_string_to_metric_families(metrics.render(_Node().status()).decode()))


class _Node:
    """A node with one program, of which everything is known."""

    def status(self) -> status.NodeStatus:
        now = "2026-01-01T00:00:00.000Z"
        beat = status.ProgramStatus(
            "beat", "leading", "run", "", now, "a", 1, 1, 2, True, 0, 0, 9.0, now, 1.0, "", True, candidates=1
        )
        usage = status.Usage(cpu=1.5, memory=4096, processes=1, tasks=1, open_files=3, oom_kills=0)
        beat = replace(beat, last_exit=status.LastExit(now, 1, 0, None), drift=0, usage=usage, next_run=now)
        postgres = status.PostgresStatus(True, "db1/ops", "18.0", "", 10.0, 1, 2)
        return status.NodeStatus("a", "", "0", postgres, (beat,))


def metrics_table() -> str:
    """Every metric, as the page of the listener names it."""
    return rows(("metric", "type", "labels", "meaning"), map(_metric, metric_families()))


def _metric(family: Family) -> tuple[str, str, str, str]:
    called = family.name + ("_total" if family.type == "counter" else "")
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
    return f"`{called}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation


def endpoints(prefix: str) -> list[tuple[str, str]]:
    """Return (method, path) of every endpoint below ``prefix`` that the code routes."""
    found: list[tuple[str, str]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for method, route in re.findall(r'web\.(get|post)\(f?"([^"]+)"', path.read_text("utf-8")):
            path_of = route.replace("{{", "{").replace("}}", "}")
            verbs = ORDERS if "{verb}" in path_of else ("",)
            found += [(method.upper(), path_of.replace("{verb}", verb)) for verb in verbs]
    return [(method, route) for method, route in found if route.startswith(prefix)]


def status_fields() -> str:
    """The fields of the control socket's answers."""
    kinds = (
        status.NodeStatus,
        status.PostgresStatus,
        status.MaintenanceStatus,
        status.ProgramStatus,
        status.Usage,
        status.ProgramDetail,
        status.Process,
        status.LeaseReport,
        status.DaemonProcess,
        status.ReplacementReport,
        status.MigrationReport,
    )
    return "\n\n".join(_fields(kind) for kind in kinds)


def _fields(kind: type) -> str:
    meanings = dict(member_docstrings(kind))
    lines = [(f"`{field}`", f"`{called}`", meanings.get(field, "")) for field, called in kind.__annotations__.items()]
    return f"**{kind.__name__}**: {first_sentence(kind.__doc__)}\n\n" + rows(("field", "type", "meaning"), lines)


def ledger_script() -> str:
    """The SQL that creates a ledger with the default names."""
    script = ledger.Ledger("highlander", "highlander", 10.0).script()
    return f"```sql\n{script.strip()}\n```"


BLOCKS: Final[Mapping[str, Callable[[], str]]] = {
    "configuration-overview": options.overview_of_keys,
    "configuration": options.configuration_keys,
    "daemon-options": options.daemon_options,
    "daemon-commands": options.daemon_commands,
    "client-commands": options.client_commands,
    "supervisord-options": options.supervisord_options,
    "systemd-keys": options.systemd_keys,
    "exit-codes": options.exit_codes,
    "metrics": metrics_table,
    "status-fields": status_fields,
    "state-diagram": transitions.diagram,
    "state-words": transitions.vocabulary,
    "state-table": transitions.table,
    "term-ends": transitions.ways_into_draining,
    "ledger-script": ledger_script,
    "messages": messages.table,
    "spawn-request": messages.spec,
    "picture": house.picture,
    "modules": house.modules,
    "layers": house.layers,
}


def interface() -> str:
    """The OpenAPI document of the control socket and the TCP listener."""
    return openapi.text(endpoints("/"))


WHOLE: Final[Mapping[Path, Callable[[], str]]] = {openapi.PAGE: interface}
"""The files that are written as a whole."""


def pages() -> list[Path]:
    """Every page, the front page among them."""
    return [ROOT / "README.md", *sorted(HERE.rglob("*.md"))]


def renewed(text: str) -> str:
    """Return a page's text with its blocks as the code has them now. Raises KeyError for a block that nobody makes."""
    pattern = re.compile(r"<!-- begin (?P<block>[\w-]+) -->.*?<!-- end (?P=block) -->", re.DOTALL)

    def block(found: re.Match[str]) -> str:
        called = found["block"]
        return f"<!-- begin {called} -->\n\n{BLOCKS[called]()}\n\n<!-- end {called} -->"

    return pattern.sub(block, text)


def stale() -> dict[Path, str]:
    """Return the pages that say something else than the code, each with what it should say."""
    found = {}
    for page in pages():
        text = page.read_text("utf-8")
        wanted = renewed(text)
        if wanted != text:
            found[page] = wanted
    for page, made in WHOLE.items():
        wanted = made()
        if not page.exists() or page.read_text("utf-8") != wanted:
            found[page] = wanted
    return found


def main() -> int:
    """Write the blocks, or only name the stale pages."""
    parser = argparse.ArgumentParser(description="Write what the code says into the pages of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is stale")
    check = parser.parse_args().check
    found = stale()
    for page, text in found.items():
        print(f"{page.relative_to(ROOT)}: {'stale; run make docs' if check else 'written'}")
        if not check:
            page.write_text(text, "utf-8")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
