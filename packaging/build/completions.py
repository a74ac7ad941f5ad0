"""Completions for bash, zsh and fish, made of the commands' own parsers.

Names of programs and nodes are asked of the running daemon at the moment of completion; without one there are none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from highlanderd.command_line import _parser as daemon_parser
from highlanderd.ctl.arguments import parser as client_parser

ASKED: Final = {
    "NAME": "timeout 2 highlanderctl status 2>/dev/null | awk 'NR > 1 { print $1 }'",
    "NODE": "timeout 2 highlanderctl cluster -o tsv 2>/dev/null | awk 'node { print $1 } !NF { getline; node = 1 }'",
}
"""By what is to be named: the command that prints what there is. Nodes are the second table, after an empty line."""
SIGNALS: Final = ("HUP", "INT", "QUIT", "TERM", "KILL", "USR1", "USR2", "CONT", "STOP", "WINCH")
"""What a command that takes a signal first is offered: the usual ones."""
FILES: Final = frozenset({"PATH", "FILE"})
"""What is a file, of what options take."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option, with all its spellings; ``value`` is what it takes, or nothing."""

    spellings: tuple[str, ...]
    value: str
    text: str
    choices: tuple[str, ...] = ()
    """What the value may be, where that is known."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command or one below it: its spellings, what it does, and what may follow."""

    spellings: tuple[str, ...]
    text: str
    options: tuple[Option, ...]
    commands: tuple[Command, ...]
    asked: str
    """What is named in it, if that can be asked for: a key of ``ASKED``, or nothing."""
    first: tuple[str, ...] = ()
    """What its first word may be, where that is known."""


def tree(parser: argparse.ArgumentParser, spellings: Sequence[str], text: str = "") -> Command:
    """Return what a parser accepts."""
    options: list[Option] = []
    commands: tuple[Command, ...] = ()
    asked = ""
    first: tuple[str, ...] = ()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = tuple(_below(action))
        elif action.option_strings and action.help != argparse.SUPPRESS:
            value = "" if action.nargs == 0 else str(action.metavar or action.dest)
            described = (action.help or "").replace("%(default)s", "")
            options.append(Option(tuple(action.option_strings), value, described, tuple(action.choices or ())))
        elif action.metavar in ASKED:
            asked = str(action.metavar)
        elif action.metavar == "SIG":
            first = SIGNALS
    return Command(tuple(spellings), text, tuple(options), commands, asked, first)


def _below(action: argparse._SubParsersAction[Any]) -> Iterator[Command]:
    texts = {str(choice.metavar or choice.dest): choice.help or "" for choice in action._choices_actions}
    spellings: dict[int, list[str]] = {}
    for called, parser in action.choices.items():
        spellings.setdefault(id(parser), []).append(called)
    for parser in {id(parser): parser for parser in action.choices.values()}.values():
        known = spellings[id(parser)]
        text = next((text for choice, text in texts.items() if choice.split(" ")[0] == known[0]), "")
        yield tree(parser, known, text)


def paths(command: Command, above: str = "") -> Iterator[tuple[str, Command]]:
    """Return every command below this one with the words that lead to it."""
    for below in command.commands:
        for called in below.spellings:
            path = f"{above} {called}".strip()
            yield path, below
            yield from paths(below, path)


# -------------------------------------------------------------------------------------------------------------- bash


def bash(program: str, top: Command) -> str:
    """Return the completion for bash."""
    everything = [("", top), *paths(top)]
    options = {option for _, command in everything for option in command.options}
    cases = "\n".join(
        f"        '{path}') words='{_called(command)}' options='{_spelt(command)}' ;;" for path, command in everything
    )
    below = [path for path, command in everything if command.commands and path]
    deeper = "".join(f"            '{path}') path=\"{path} $word\" ;;\n" for path in below)
    asks = _bash_asks(everything)
    first = "            '') path=$word ;;\n" if top.commands else ""
    walk = f"        case $path in\n{first}{deeper}        esac\n" if top.commands else ""
    return f"""\
# Completion of {program} for bash, generated from its parser.
_{program}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} path='' words='' options='' word i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case $word in
            {_values(options)}) i=$((i + 1)); continue ;;
            -*) continue ;;
        esac
{walk}    done
    case $prev in
        {_values({option for option in options if option.value in FILES})})
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return ;;
    esac
    case "$path $prev" in
{_bash_values(everything)}
    esac
    case $prev in
        {_values(options)}) return ;;
    esac
    case $path in
{cases}
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
        return
    fi
{asks}    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}}
complete -o filenames -F _{program} {program}
"""


def _bash_asks(everything: Sequence[tuple[str, Command]]) -> str:
    """Return what asks for the names that may follow a command."""
    named = {key: "|".join(f"'{path}'" for path, command in everything if command.asked == key) for key in ASKED}
    cases = "".join(f'        {paths}) words+=" $({ASKED[key]})" ;;\n' for key, paths in named.items() if paths)
    return f"    case $path in\n{cases}    esac\n" if cases else ""


def _bash_values(everything: Sequence[tuple[str, Command]]) -> str:
    """Return the cases of options whose values are known, or can be asked for; one of a name may differ by command."""
    known: dict[str, list[str]] = {}
    for path, command in everything:
        for option in command.options:
            words = " ".join(option.choices) or (f"$({ASKED['NODE']})" if option.value == "NODE" else "")
            known.setdefault(words, []).extend(f"'{path} {spelling}'" for spelling in option.spellings)
    return "\n".join(
        f'        {"|".join(where)}) mapfile -t COMPREPLY < <(compgen -W "{words}" -- "$cur"); return ;;'
        for words, where in known.items()
        if words
    )


def _values(options: set[Option]) -> str:
    return "|".join(sorted(spelling for option in options if option.value for spelling in option.spellings))


def _called(command: Command) -> str:
    return " ".join((*command.first, *(called for inner in command.commands for called in inner.spellings)))


def _spelt(command: Command) -> str:
    return " ".join(spelling for option in command.options for spelling in option.spellings)


# --------------------------------------------------------------------------------------------------------------- zsh


def zsh(program: str, top: Command) -> str:
    """Return the completion for zsh."""
    asks = "".join(
        f'_{program}_{key}() {{\n  local -a found\n  found=(${{(f)"$({asked})"}})\n  compadd -a found\n}}\n\n'
        for key, asked in ASKED.items()
        if any(command.asked == key for _, command in paths(top))
    )
    bodies = "\n".join(_zsh_function(f"_{program}", top))
    return f'#compdef {program}\n# Generated from its parser.\n\n{asks}{bodies}\n_{program} "$@"\n'


def _zsh_function(called: str, command: Command) -> Iterator[str]:
    program = called[1:].split("_")[0]
    arguments = [spec for option in command.options for spec in _zsh_option(option, program)]
    if command.first:
        arguments.append(f"'1:word:({' '.join(command.first)})'")
    if command.asked:
        arguments.append(f"'*:{command.asked}:_{program}_{command.asked}'")
    if not command.commands:
        yield f"{called}() {{\n  _arguments -s {' '.join(arguments)}\n}}\n"
        return
    arguments += ["'1:command:->command'", "'*::argument:->argument'"]
    described = [f"'{name}:{_quoted(below.text)}'" for below in command.commands for name in below.spellings]
    cases = [f"{'|'.join(below.spellings)}) {called}_{_word(below)} ;;" for below in command.commands]
    inside = "\n        ".join(cases)
    yield (
        f"{called}() {{\n  local context state line\n  typeset -A opt_args\n"
        f"  _arguments -C {' '.join(arguments)}\n  case $state in\n"
        f"    command)\n      local -a commands=({' '.join(described)})\n      _describe command commands ;;\n"
        f"    argument)\n      case $line[1] in\n        {inside}\n      esac ;;\n  esac\n}}\n"
    )
    for below in command.commands:
        yield from _zsh_function(f"{called}_{_word(below)}", below)


def _zsh_option(option: Option, program: str) -> Iterator[str]:
    text = _quoted(option.text).replace("[", "\\[").replace("]", "\\]")
    known = {**dict.fromkeys(FILES, "_files"), "NODE": f"_{program}_NODE"}.get(option.value, " ")
    known = f"({' '.join(option.choices)})" if option.choices else known
    value = f":{option.value}:{known}" if option.value else ""
    others = f"({' '.join(option.spellings)})" if len(option.spellings) > 1 else ""
    for spelling in option.spellings:
        yield f"'{others}{spelling}[{text}]{value}'"


def _word(command: Command) -> str:
    return command.spellings[0].replace("-", "_")


def _quoted(text: str) -> str:
    return text.replace("'", "'\\''").replace(":", "\\:")


# -------------------------------------------------------------------------------------------------------------- fish


def fish(program: str, top: Command) -> str:
    """Return the completion for fish."""
    lines = [f"# Completion of {program} for fish, generated from its parser.", f"complete -c {program} -f"]
    lines += [_fish_option(program, option, "") for option in top.options]
    lines += _fish_commands(program, top, "__fish_use_subcommand")
    return "\n".join(lines) + "\n"


def _fish_commands(program: str, command: Command, where: str) -> Iterator[str]:
    for below in command.commands:
        for called in below.spellings:
            yield f"complete -c {program} -n '{where}' -a {called} -d '{_fish(below.text)}'"
        inside = f"__fish_seen_subcommand_from {' '.join(below.spellings)}"
        yield from (_fish_option(program, option, f" -n '{inside}'") for option in below.options)
        if below.first:
            yield f"complete -c {program} -n '{inside}' -a '{' '.join(below.first)}'"
        if below.asked:
            yield f"complete -c {program} -n '{inside}' -a '({_fish(ASKED[below.asked])})'"
        if below.commands:
            taken = " ".join(called for inner in below.commands for called in inner.spellings)
            yield from _fish_commands(program, below, f"{inside}; and not __fish_seen_subcommand_from {taken}")


def _fish_option(program: str, option: Option, where: str) -> str:
    spelt = " ".join(
        f"-l {called[2:]}" if called.startswith("--") else f"-s {called[1:]}" for called in option.spellings
    )
    takes = (" -r -F" if option.value in FILES else " -x") if option.value else ""
    if known := " ".join(option.choices) or (f"({ASKED['NODE']})" if option.value == "NODE" else ""):
        takes += f" -a '{_fish(known)}'"
    return f"complete -c {program}{where} {spelt}{takes} -d '{_fish(option.text)}'"


def _fish(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def files() -> dict[str, str]:
    """Return every completion by its place below /usr/share."""
    found = {}
    for program, parser in (("highlanderctl", client_parser()), ("highlanderd", daemon_parser())):
        top = tree(parser, [program])
        found[f"bash-completion/completions/{program}"] = bash(program, top)
        found[f"zsh/vendor-completions/_{program}"] = zsh(program, top)
        found[f"fish/vendor_completions.d/{program}.fish"] = fish(program, top)
    return found


if __name__ == "__main__":
    taken = argparse.ArgumentParser(description="Write the completions of bash, zsh and fish into a directory.")
    taken.add_argument("directory", type=Path, help="what stands for /usr/share; made where it is not there")
    directory = taken.parse_args().directory
    for place, script in files().items():
        path = directory / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, "utf-8")
