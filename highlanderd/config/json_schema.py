"""A JSON Schema of the configuration, for editors: they complete keys, show their texts, and mark what is wrong.

The schema describes what people may write (``"1m30s"``), not what the daemon makes of it (90.0). Where it cannot be as
exact as the daemon, it lets things pass: ``highlanderd --check`` decides.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from highlanderd.config import cron, limits, probes, values, words
from highlanderd.config import program as program_keys
from highlanderd.config.program import ProgramKeys
from highlanderd.config.sections import SECTIONS, Section
from highlanderd.core.key import LABEL
from highlanderd.durations import shown

Fragment = dict[str, Any]

EXPANDED: Final = r"\$\{[A-Za-z_]"
"""A string with a variable in it is accepted everywhere, because the variable may complete it."""


def _string(pattern: str) -> Fragment:
    return {"type": "string", "pattern": f"^(?:{pattern})$|{EXPANDED}"}


_DURATION: Final = r"(\d+(\.\d+)?(d|h|m|s|ms))+|\d+(\.\d+)?"
_DURATION_OR_NUMBER: Final[Fragment] = {"anyOf": [_string(_DURATION), {"type": "number", "minimum": 0}]}
_COMMAND: Final[Fragment] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
_PROBE: Final[Fragment] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "http": {"type": "string"},
        "tcp": {"type": "string"},
        "exec": _COMMAND,
        "period": _DURATION_OR_NUMBER,
        "timeout": _DURATION_OR_NUMBER,
        "threshold": {"type": "integer", "minimum": 1, "maximum": 1000},
    },
    "oneOf": [{"required": [check]} for check in ("http", "tcp", "exec")],
}
_ACCOUNT: Final[Fragment] = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}]}

WRITTEN: Final[Mapping[Callable[..., Any], Fragment]] = {
    values.duration: _DURATION_OR_NUMBER,
    values.size: {"anyOf": [_string(r"\d+\s*([kKmMgGtT][iI]?)?[bB]"), {"type": "integer", "minimum": 0}]},
    values.octal: {"anyOf": [_string("(0o)?[0-7]{1,4}"), {"type": "integer", "minimum": 0, "maximum": 0o777}]},
    values.signal_number: {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1, "maximum": 64}]},
    values.exit_code: {"type": "integer", "minimum": 0, "maximum": 255},
    limits.resource_limits: {
        "type": "object",
        "propertyNames": {"enum": list(limits.LIMITS)},
        "properties": {"cpu_max": {"type": ["number", "string"]}},
        "additionalProperties": {"type": ["integer", "string"]},
    },
    limits.nice_value: {"type": "integer", "minimum": -20, "maximum": 19},
    limits.oom_adjustment: {"type": "integer", "minimum": -1000, "maximum": 1000},
    values.count: {"type": "integer", "minimum": 0, "maximum": 1000},
    values.environment_file: {"type": "string"},
    values.label: _string(LABEL),
    values.web_address: _string(values.WEB_ADDRESS),
    values.account: _ACCOUNT,
    words.words: _COMMAND,
    probes.readiness: {"anyOf": [_DURATION_OR_NUMBER, {"const": "notify"}, _PROBE]},
    cron.schedule_fields: _string(r"\s*\S+(\s+\S+){4}\s*"),
    program_keys.hook_command: _COMMAND,
    program_keys.failback_time: {"anyOf": [{"const": "never"}, _DURATION_OR_NUMBER]},
    program_keys.alive_value: {"anyOf": [{"const": "notify"}, _PROBE]},
}
"""What may be written, by the function that reads it."""


class _AsWritten(GenerateJsonSchema):
    """Pydantic's own generator, changed for values that a function reads before pydantic validates them."""

    def function_before_schema(self, schema: Any) -> Fragment:
        reads = schema["function"]["function"]
        inner = super().function_before_schema(schema)
        if reads is values.distinct:
            inner["uniqueItems"] = True
        if reads in (values.listed, values.distinct):  # one may stand for an array of one
            return {"anyOf": [inner["items"], inner]}
        return copy.deepcopy(WRITTEN[reads]) if reads in WRITTEN else inner

    def literal_schema(self, schema: Any) -> Fragment:
        return {"anyOf": [super().literal_schema(schema), {"type": "string", "pattern": EXPANDED}]}

    def nullable_schema(self, schema: Any) -> Fragment:
        return self.generate_inner(schema["schema"])  # TOML has no null: what is not there is left out


def text() -> str:
    """Return the schema as JSON, as ``--print-json-schema`` does."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def schema() -> Fragment:
    """Return the schema of the whole file."""
    program = _table(ProgramKeys)
    defaults = {key: value for key, value in program.items() if key != "required"}
    tables = {name: _table(model) for name, model in SECTIONS.items()}
    names = {"pattern": f"^{LABEL}$", "not": {"const": "all"}}
    # Nothing is required: a file that is included holds programs alone, and [defaults] may hold their command.
    del program["required"], tables["postgres"]["required"]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "highlander.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **tables,
            "defaults": {**defaults, "description": "Any key of a program, for all programs of all files."},
            "program": {"type": "object", "propertyNames": names, "additionalProperties": program},
        },
    }


def _table(model: type[Section]) -> Fragment:
    made = _plain(model.model_json_schema(schema_generator=_AsWritten))
    for key, info in keys(model):
        written = default(key, info)
        if written is not None:
            made["properties"][key]["default"] = written
    return {**made, "description": " ".join((model.__doc__ or "").split()).replace("``", "`")}


def _plain(made: Any) -> Any:
    """Leave out what pydantic adds for forms, and defaults as the daemon holds them."""
    if isinstance(made, dict):
        noise = {key for key in ("title", "format", "writeOnly", "default") if not isinstance(made.get(key), dict)}
        return {key: _plain(value) for key, value in made.items() if key not in noise}
    return [_plain(item) for item in made] if isinstance(made, list) else made


# ------------------------------------------------------------------------------------------------------ keys, defaults

_DURATIONS: Final = frozenset(
    {
        "lease",
        "backoff",
        "backoff_max",
        "backoff_reset",
        "stop_timeout",
        "catch_up",
        "ready_timeout",
        "alive_timeout",
        "failback",
        "hook_timeout",
    }
)
"""Keys whose numbers are seconds; the others are plain numbers."""


def keys(model: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
    """Return the keys of one table of the file, as people write them."""
    for field, info in model.model_fields.items():
        yield info.alias or field, info


def default(key: str, info: FieldInfo) -> object:
    """Return the value of a key that is left out, as people would write it; ``None`` where the description says it."""
    if info.is_required() or info.default_factory is not None:
        return None
    return as_written(key, info.default)


def as_written(key: str, value: object) -> object:
    """Return a value as people would write it."""
    if key in _DURATIONS and isinstance(value, float):
        return shown(value)
    if key in ("umask", "mode") and isinstance(value, int):
        return f"{value:04o}" if key == "mode" else f"{value:03o}"
    if key == "log_max_bytes" and isinstance(value, int):
        return f"{value // 10**6}MB"
    if key == "stop_signal":
        return "TERM"
    if isinstance(value, probes.Delay):
        return shown(value.seconds)
    if isinstance(value, frozenset | tuple | list):
        return sorted(value)
    return str(value) if isinstance(value, str | Path) else value
