"""Turn a table of TOML into a model: check its keys, expand its strings, and report each problem at its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import Struct, field
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from highlanderd.config.expansion import WrittenText
from highlanderd.config.problems import Location, Problems
from highlanderd.config.program import ProgramKeys
from highlanderd.config.sections import Section
from highlanderd.config.suggestions import keys_of, unknown_key
from highlanderd.config.values import kind, quoted
from highlanderd.config.words import words

Model = TypeVar("Model", bound=Section)

_EXAMPLES: Final = {
    "command": 'command = ["celery", "-A", "shop", "beat"]',
    "dsn": 'dsn = "postgresql://highlander@db1/ops", or "embedded" for trying out',
}


class Key(Struct, frozen=True):
    """A key's value, its strings expanded, and where it is written."""

    value: object
    location: Location
    names: Mapping[str, Location] = field(default_factory=dict)
    """Where the keys of its value are written, if that is a table."""


Table = Mapping[str, Key]


class Reading(Struct, frozen=True):
    """Turns tables into models, with the environment, the secrets' files, and the report of what is wrong."""

    environ: Mapping[str, str]
    secret: Callable[[Path], bytes]
    start: Path
    report: Problems

    def keys(self, model: type[Section], raw: object, location: Location, called: str) -> dict[str, Key]:
        """Return the known keys of a table, their strings expanded. Report the others."""
        if not isinstance(raw, dict):
            self.report.add(location, f"is {kind(raw)}; write a table: [{called}]")
            return {}
        found: dict[str, Key] = {}
        for name, value in raw.items():
            if name not in keys_of(model):
                self.report.add(location / name, unknown_key(called, model, name, value))
            elif issubclass(model, ProgramKeys) and name == "command":
                found |= self._command(value, location / name)
            else:
                names = {inner: location / name / inner for inner in value} if isinstance(value, dict) else {}
                found[name] = Key(self._expanded(value, location / name), location / name, names)
        return found

    def _command(self, value: object, location: Location) -> dict[str, Key]:
        """Return the words as configured, for display, and those that are executed."""
        try:
            configured = words(value)
        except ValueError:
            return {"command": Key(value, location)}  # the model says why
        within = [location / number if isinstance(value, list) else location for number in range(len(configured))]
        executed = [self._expanded(word, at) for word, at in zip(configured, within, strict=True)]
        if not executed[0] and not self.report.knows(within[0]):
            self.report.add(within[0], "expands to nothing, and it is the program's file; set the variable")
        return {"command": Key(configured, location), "argv": Key(executed, location)}

    def _expanded(self, value: object, location: Location) -> object:
        if isinstance(value, dict):
            return {name: self._expanded(inner, location / name) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._expanded(inner, location / index) for index, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            return WrittenText(value, (self.start / location.document.name).parent, self.environ)
        except ValueError as error:
            self.report.add(location, str(error))
            return value

    def model(self, model: type[Model], table: Table, location: Location) -> Model | None:
        """Return the model of a table, or ``None`` after reporting what is wrong, each key where it was written."""
        try:
            return model.model_validate({name: key.value for name, key in table.items()}, context={"read": self.secret})
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                where = _where(table, location, detail["loc"])
                derived = detail["loc"] == ("argv",)  # there is none, because its command is wrong
                if not derived and not self.report.knows(where):
                    self.report.add(where, _sentence(detail))
            return None


def merged(defaults: Table, own: Table) -> dict[str, Key]:
    """Return a program's own keys over the defaults. Only ``environment`` is merged, variable by variable."""
    whole = {**defaults, **own}
    below, above = defaults.get("environment"), own.get("environment")
    if below and above and isinstance(below.value, dict) and isinstance(above.value, dict):
        names = {**below.names, **above.names}
        whole["environment"] = Key({**below.value, **above.value}, above.location, names)
    return whole


def objection(key: str, value: object) -> str | None:
    """Return why a program's key would be refused with this value; None if it would not.

    >>> objection("umask", "022"), objection("success_exit_codes", [256])
    (None, '256 is not an exit code; write a number from 0 to 255')
    """
    try:
        ProgramKeys.model_validate({"command": ["true"], key: value})
    except ValidationError as error:
        return _sentence(error.errors(include_url=False)[0])
    return None


def _where(table: Table, location: Location, loc: tuple[int | str, ...]) -> Location:
    head, *rest = loc
    if head not in table:
        return location / head
    key = table[str(head)]
    if rest and rest[0] in key.names:
        return key.names[str(rest[0])]
    return key.location / rest[0] if rest and isinstance(rest[0], int) else key.location


def _sentence(detail: ErrorDetails) -> str:
    context: dict[str, Any] = detail.get("ctx", {})
    if "error" in context:
        return str(context["error"])
    if detail["type"] == "literal_error":
        expected = context["expected"].replace("'", '"')
        return f"{quoted(detail['input'])} is not a choice; write {expected}"
    if detail["type"] == "missing":
        return f"is missing; write {_EXAMPLES[str(detail['loc'][-1])]}"
    return detail["msg"]
