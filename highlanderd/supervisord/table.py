"""A table of the result, and how an option of supervisord's is named in a remark or a refusal."""

from __future__ import annotations

from msgspec import Struct, field

from highlanderd.errors import ConfigurationError
from highlanderd.supervisord.reading import SupervisorSection, written


class Table(Struct):
    """A table of the result: keys with TOML values, and remarks that stand above it as comments."""

    title: str
    keys: dict[str, object] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def refusal(section: SupervisorSection, option: str, said: str) -> ConfigurationError:
    """Return the error that names an option with its file and section."""
    return ConfigurationError((f"{section.file}: {section.title} {option}: {said}",))


def shown(value: str) -> str:
    """Return a value for a comment: on one line, and short."""
    words = " ".join(written(value).split())
    return words if len(words) <= 60 else f"{words[:56]} ..."
