"""Writes what the code already says into these pages: keys, options, metrics, endpoints, states, modules.

A page holds the words. Between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` it holds a block, and each block is a
function here that reads the code. ``make docs`` writes them; with ``--check`` nothing is written, and what is stale is
named. Nothing is invented here: where a text is wrong, the code's own text has to be mended.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import tomli
from prometheus_client.parser import text_string_to_metric_families
from pydantic.fields import FieldInfo
from transitions import name, walk

import highlanderd
from highlanderd import errors
from highlanderd.__main__ import _parser as daemon_parser
from highlanderd.config import SECTIONS, ProgramKeys
from highlanderd.config import sections as configuration
from highlanderd.config.values import shown
from highlanderd.core import machine, status, words
from highlanderd.core.cells.moment import bug, stay
from highlanderd.ctl.arguments import parser as client_parser
from highlanderd.listeners.metrics import Metrics
from highlanderd.listeners.orders import ORDERS
from highlanderd.postgres import ledger

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent
PACKAGE: Final = Path(highlanderd.__file__).parent
DURATIONS: Final = frozenset(
    {"lease", "backoff", "backoff_max", "backoff_reset", "stop_timeout"}
)  # keys whose numbers are seconds; the others are plain numbers


def first_sentence(text: str | None) -> str:
    """Give the first paragraph of a docstring as one line of Markdown."""
    paragraph = (text or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "`")


def row(*cells: str) -> str:
    """Give one line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def rows(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Give a Markdown table."""
    headings = tuple(headings)
    return "\n".join([row(*headings), row(*("---" for _ in headings)), *(row(*line) for line in lines)])


# --------------------------------------------------------------------------------------------------- configuration


def keys(model: type[configuration.Section]) -> Iterator[tuple[str, FieldInfo]]:
    """Give the keys of one table of the file, as people write them."""
    for field, info in model.model_fields.items():
        yield info.alias or field, info


def default(key: str, info: FieldInfo) -> str:
    """Say what holds when a key is left out, as TOML writes it."""
    if info.is_required():
        return "required"
    value = info.default
    if info.default_factory is not None or value is None:
        return ""  # the description tells it
    return f"`{_toml(key, value)}`"


def _toml(key: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if key in DURATIONS and isinstance(value, float):
        return f'"{shown(value)}"'
    if key in ("umask", "mode") and isinstance(value, int):
        return f'"{value:04o}"' if key == "mode" else f'"{value:03o}"'
    if key == "log_max_bytes" and isinstance(value, int):
        return f'"{value // 10**6}MB"'
    if key == "stop_signal":
        return '"TERM"'
    if isinstance(value, frozenset | tuple | list):
        return "[" + ", ".join(str(item) for item in sorted(value)) + "]"
    return "{}" if value == {} else f'"{value}"' if isinstance(value, str | Path) else str(value)


def configuration_keys() -> str:
    """Every key of every table."""
    tables: dict[str, type[configuration.Section]] = {
        **{f"[{name}]": model for name, model in SECTIONS.items()},
        "[program.NAME]": ProgramKeys,
    }
    return "\n\n".join(_table_of_keys(title, model) for title, model in tables.items())


def _table_of_keys(title: str, model: type[configuration.Section]) -> str:
    text = "\n\n".join(" ".join(part.split()) for part in (model.__doc__ or "").replace("``", "`").split("\n\n"))
    lines = [f"## `{title}`", "", text]
    prefix = "" if model is ProgramKeys else f"{title[1:-1]}."
    for key, info in keys(model):
        value = default(key, info)
        said = {
            "": "",
            "required": "Required.",
        }.get(value, f"Default: {value}.")
        lines += ["", f"### `{prefix}{key}`", *(["", said] if said else []), "", str(info.description)]
    return "\n".join(lines)


def overview_of_keys() -> str:
    """Every program key with its default, for a glance."""
    return rows(
        ("key", "default"),
        ((f"[`{key}`](#{key})", default(key, info)) for key, info in keys(ProgramKeys)),
    )


# ---------------------------------------------------------------------------------------------------------- commands


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Give the arguments of a command with their help."""
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        written = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
        value = f" `{action.metavar}`" if action.option_strings and action.metavar else ""
        help_text = (action.help or "").replace("%(default)s", str(action.default))
        yield written + value, help_text


def daemon_options() -> str:
    """What `highlanderd` takes."""
    return rows(("option", "meaning"), options(daemon_parser()))


def client_commands() -> str:
    """What `highlanderctl` takes."""
    top = client_parser()
    return "\n\n".join(_commands(top, "highlanderctl"))


def _commands(parser: argparse.ArgumentParser, called: str) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from _subcommands(action, called)


def _subcommands(action: argparse._SubParsersAction[Any], called: str) -> Iterator[str]:
    helps = {pseudo.dest.split(" ")[0]: pseudo.help for pseudo in action._choices_actions}
    parsers: dict[int, list[str]] = defaultdict(list)
    for command, parser in action.choices.items():
        parsers[id(parser)].append(command)
    for command, parser in action.choices.items():
        names = parsers[id(parser)]
        if names[0] != command:
            continue  # an alias of one before
        inner = list(_commands(parser, f"{called} {command}"))
        title = f"### `{called} {command}`" + "".join(f", `{alias}`" for alias in names[1:])
        said = [(option, text) for option, text in options(parser) if "--socket" not in option]
        text = parser.description or helps.get(command) or ""
        block = f"{title}\n\n{text[:1].upper()}{text[1:].rstrip('.')}."
        yield block + (f"\n\n{rows(('argument', 'meaning'), said)}" if said and not inner else "")
        yield from inner


def exit_codes() -> str:
    """Every exit code, with the word that the control socket gives for it."""
    words_of = {kind.exit_code: kind for kind in _kinds(errors.HighlanderError)}
    constants = {value: key for key, value in vars(errors).items() if key.isupper() and isinstance(value, int)}
    lines = []
    for code, constant in sorted(constants.items()):
        kind = words_of.get(code)
        meaning = (
            first_sentence(kind.__doc__).split(". ")[0].rstrip(".") + "."
            if kind
            else {0: "Done.", 2: "The command line is wrong."}[code]
        )
        lines.append((f"`{code}`", constant.lower().replace("_", " "), f"`{kind.code}`" if kind else "", meaning))
    return rows(("code", "name", "word", "meaning"), lines)


def _kinds(kind: type[errors.HighlanderError]) -> Iterator[type[errors.HighlanderError]]:
    """The errors that everybody may meet; subclasses elsewhere share the code of one of these."""
    for found in vars(errors).values():
        if isinstance(found, type) and issubclass(found, kind):
            yield found


# --------------------------------------------------------------------------------------------------------- listeners

Family = Any  # prometheus_client.Metric is not exported with its type


def metric_families() -> list[Family]:
    """Give every metric of the page, by feeding the recorder one of each kind."""
    metrics = Metrics(_Node())
    metrics.transition("beat", "waiting", "leading")
    metrics.exited("beat", 0)
    metrics.term_ended("beat", "released")
    metrics.killed("beat", "deadline")
    metrics.output_lines("beat", "stdout", 1)
    return list(text_string_to_metric_families(metrics.render().decode()))


class _Node:
    """A node with one program, of which everything is known."""

    def status(self) -> status.NodeStatus:
        now = "2026-01-01T00:00:00.000Z"
        beat = status.ProgramStatus(
            "beat", "leading", "run", "", now, "a", 1, 1, 2, True, 0, 0, 9.0, now, 1.0, "", True
        )
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
    """Give (method, path) of every endpoint below ``prefix`` that the code routes."""
    found: list[tuple[str, str]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for method, route in re.findall(r'web\.(get|post)\(f?"([^"]+)"', path.read_text("utf-8")):
            path_of = route.replace("{{", "{").replace("}}", "}")
            verbs = ORDERS if "{verb}" in path_of else ("",)
            found += [(method.upper(), path_of.replace("{verb}", verb)) for verb in verbs]
    return [(method, route) for method, route in found if route.startswith(prefix)]


def status_fields() -> str:
    """The fields of the control socket's answers."""
    kinds = (status.NodeStatus, status.PostgresStatus, status.ProgramStatus, status.ProgramDetail, status.Process)
    return "\n\n".join(_fields(kind) for kind in kinds)


def _fields(kind: type) -> str:
    tree = ast.parse(Path(str(status.__file__)).read_text("utf-8"))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__]
    lines = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            lines.append(
                (f"`{ast.unparse(node.target)}`", f"`{ast.unparse(node.annotation)}`", first_sentence(str(said)))
            )
    return f"**{kind.__name__}**: {first_sentence(kind.__doc__)}\n\n" + rows(("field", "type", "meaning"), lines)


# ------------------------------------------------------------------------------------------------------- the machine


def diagram() -> str:
    """The states and the ways between them, walked on the real table."""
    ways: Mapping[tuple[str, str], set[str]] = defaultdict(set)
    for edge in walk()[0]:
        ways[edge.old, edge.new].add(edge.event)
    states = [name(kind) for kind in machine.TABLE]
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> waiting", "    [*] --> stopped: autostart = false"]
    for old, new in sorted(ways, key=lambda way: (states.index(way[0]), states.index(way[1]))):
        lines.append(f"    {old} --> {new}: {', '.join(_in_order(ways[old, new]))}")
    return "\n".join([*lines, "```"])


def _in_order(events: Iterable[str]) -> list[str]:
    order = [kind.__name__ for kind in machine.TABLE[words.Waiting]]
    return sorted(events, key=order.index)


def ways_into_draining() -> str:
    """Why a term ends, by the event that ends it."""
    found: Mapping[tuple[str, str], set[str]] = defaultdict(set)
    for edge in walk()[0]:
        if edge.new == "draining":
            found[edge.cause, edge.old].add(edge.event)
    order = [cause.value for cause in words.Cause]
    lines = sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    return rows(
        ("cause", "from", "event"),
        ((f"`{cause}`", old, ", ".join(_in_order(events))) for (cause, old), events in lines),
    )


def vocabulary() -> str:
    """The states and events in the code's own words."""
    states = rows(("state", "meaning"), ((f"`{name(kind)}`", first_sentence(kind.__doc__)) for kind in machine.TABLE))
    events = machine.TABLE[words.Waiting]
    return f"{states}\n\n" + rows(
        ("event", "meaning"), ((kind.__name__, first_sentence(kind.__doc__)) for kind in events)
    )


def table() -> str:
    """Every cell."""
    kinds = list(machine.TABLE)
    events = machine.TABLE[words.Waiting]
    lines = ((event.__name__, *(_cell(machine.TABLE[kind][event]) for kind in kinds)) for event in events)
    return rows(("event", *(name(kind) for kind in kinds)), lines)


def _cell(cell: Callable[..., Any]) -> str:
    return {stay: "stay", bug: "-"}.get(cell) or first_sentence(cell.__doc__)


# --------------------------------------------------------------------------------------------------------- the house


def ledger_script() -> str:
    """The SQL that creates a ledger with the default names."""
    script = ledger.Ledger("highlander", "highlander", 10.0).script()
    return f"```sql\n{script.strip()}\n```"


def modules() -> str:
    """What each module is for, in its own first sentence."""
    lines = []
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: (len(path.relative_to(PACKAGE).parts) > 1, path)):
        text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        if text:
            lines.append((f"`{path.relative_to(PACKAGE)}`", first_sentence(text)))
    return rows(("module", "first sentence of its docstring"), lines)


def layers() -> str:
    """Which module may import which, as the linter enforces it."""
    contracts = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    drawn = [contract for contract in contracts if contract["type"] == "layers"]
    return "\n\n".join(f"{contract['name']}:\n\n```\n" + "\n".join(contract["layers"]) + "\n```" for contract in drawn)


BLOCKS: Final[Mapping[str, Callable[[], str]]] = {
    "configuration-overview": overview_of_keys,
    "configuration": configuration_keys,
    "daemon-options": daemon_options,
    "client-commands": client_commands,
    "exit-codes": exit_codes,
    "metrics": metrics_table,
    "status-fields": status_fields,
    "state-diagram": diagram,
    "state-words": vocabulary,
    "state-table": table,
    "term-ends": ways_into_draining,
    "ledger-script": ledger_script,
    "modules": modules,
    "layers": layers,
}


def pages() -> list[Path]:
    """Every page, the front page among them."""
    return [ROOT / "README.md", *sorted(HERE.rglob("*.md"))]


def renewed(text: str) -> str:
    """Give a page's text with its blocks as the code has them now. Raises KeyError for a block that nobody makes."""
    pattern = re.compile(r"<!-- begin (?P<block>[\w-]+) -->.*?<!-- end (?P=block) -->", re.DOTALL)

    def block(found: re.Match[str]) -> str:
        called = found["block"]
        return f"<!-- begin {called} -->\n\n{BLOCKS[called]()}\n\n<!-- end {called} -->"

    return pattern.sub(block, text)


def stale() -> dict[Path, str]:
    """Give the pages that say something else than the code, each with what it should say."""
    found = {}
    for page in pages():
        text = page.read_text("utf-8")
        wanted = renewed(text)
        if wanted != text:
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
