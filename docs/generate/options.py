"""What people may write: the file's keys, the commands' options, and the exit codes, each from the code's own text."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from pydantic.fields import FieldInfo
from tables import first_sentence, rows

from highlanderd import errors
from highlanderd.command_line import _parser as daemon_parser
from highlanderd.config import SECTIONS, ProgramKeys, json_schema
from highlanderd.config import sections as configuration
from highlanderd.config.spellings import SYSTEMD
from highlanderd.config.supervisord import PROGRAM, Option
from highlanderd.ctl.arguments import parser as client_parser
from highlanderd.worker.changes import APPLIED_AT_ONCE, PROBES

# --------------------------------------------------------------------------------------------------- configuration


def default(key: str, info: FieldInfo) -> str:
    """Say what holds when a key is left out, as TOML writes it."""
    if info.is_required():
        return "required"
    value = json_schema.default(key, info)
    return "" if value is None else f"`{_toml(value)}`"  # otherwise the description tells it


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


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
    for key, info in json_schema.keys(model):
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
        ("key", "default", "a reload"),
        ((f"[`{key}`](#{key})", default(key, info), _reloaded(key)) for key, info in json_schema.keys(ProgramKeys)),
    )


def _reloaded(key: str) -> str:
    if key == "lock_key":
        return "refuses, without `--force`"
    if key in PROBES:
        return 'applies it at once, unless with `"notify"`'
    return "applies it at once" if key in APPLIED_AT_ONCE else "starts the child again"


# ---------------------------------------------------------------------------------------------------------- commands

SHARED = ("--socket", "--output", "--json")
"""Options that every command of the client takes; the page describes them once."""


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Return the arguments of a command with their help."""
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


def daemon_commands() -> str:
    """What `highlanderd` takes as its first word."""
    return "\n\n".join(_commands(daemon_parser(), "highlanderd"))


def supervisord_options() -> str:
    """Every option of supervisord's [program:x], and what is done here."""
    return rows(("supervisord's option", "here", "remark"), map(_supervisord_option, PROGRAM.items()))


def _supervisord_option(item: tuple[str, Option]) -> tuple[str, str, str]:
    name, option = item
    here = f"[`{option.key}`](configuration.md#{option.key})" if option.key else "none"
    return f"`{name}`", here, option.note


def systemd_keys() -> str:
    """Every key of a systemd unit that has an answer, and what is done here."""
    keys = sorted(SYSTEMD.items(), key=lambda item: item[0].lower())
    return rows(("systemd's key", "here", "remark"), map(_supervisord_option, keys))


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
        said = [(option, text) for option, text in options(parser) if not set(SHARED) & set(option.split("`"))]
        text = parser.description or helps.get(command) or ""
        block = f"{title}\n\n{text[:1].upper()}{text[1:].rstrip('.')}."
        yield block + (f"\n\n{rows(('argument', 'meaning'), said)}" if said and not inner else "")
        yield from inner


OTHERWISE: Final = {errors.DONE: "Done.", errors.INTERRUPTED: "Ctrl-C before the answer; what was ordered stands."}
"""What the exit codes mean that belong to no error."""


def exit_codes() -> str:
    """Every exit code, with the word that the control socket gives for it."""
    kinds = defaultdict(list)
    for kind in _kinds(errors.HighlanderError):
        kinds[kind.exit_code].append(kind)
    constants = {value: key for key, value in vars(errors).items() if key.isupper() and isinstance(value, int)}
    lines = []
    for code, constant in sorted(constants.items()):
        name = constant.lower().replace("_", " ")
        for kind in kinds[code]:
            meaning = first_sentence(kind.__doc__).split(". ")[0].rstrip(".") + "."
            lines.append((f"`{code}`", name, f"`{kind.code}`", meaning))
        if not kinds[code]:
            lines.append((f"`{code}`", name, "", OTHERWISE[code]))
    return rows(("code", "name", "word", "meaning"), lines)


def _kinds(kind: type[errors.HighlanderError]) -> Iterator[type[errors.HighlanderError]]:
    """The errors with a word of their own; the others share that of one of these."""
    for found in vars(errors).values():
        if isinstance(found, type) and issubclass(found, kind) and "code" in vars(found):
            yield found
