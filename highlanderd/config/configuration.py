"""The values that the daemon runs by: all sections and programs, complete and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Struct

from highlanderd.config.dsn import embedded_directory
from highlanderd.config.program import ProgramConfig
from highlanderd.config.sections import ControlSection, DaemonSection, LogSection, MetricsSection, PostgresSection
from highlanderd.config.sources import Sources


class Configuration(Struct, frozen=True):
    """The whole configuration. ``programs`` is in the order of the files."""

    daemon: DaemonSection
    postgres: PostgresSection
    control: ControlSection
    metrics: MetricsSection
    log: LogSection
    programs: Mapping[str, ProgramConfig]

    @property
    def embedded_directory(self) -> Path | None:
        """Return where the daemon runs a server of its own; None if the dsn names another one."""
        return embedded_directory(self.postgres.dsn.get_secret_value(), self.daemon.state_dir)


class Judgement(NamedTuple):
    """All that can be said about a configuration, usable or not, as ``file:line: key: ...`` by file and line."""

    problems: tuple[str, ...]
    """What must be mended, findings about this host included."""
    warnings: tuple[str, ...]
    configuration: Configuration | None
    """``None`` if it cannot be used. Findings about this host do not make it unusable."""
    merged: Callable[[], str]
    """Returns the configuration as TOML, with the place of each value; secrets are hidden. Empty if unusable."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, what it was read from, and what operators should know about it."""

    configuration: Configuration
    findings: tuple[str, ...]
    """What this host lacks for some program, as ``file:line: key: ...``. ``--check`` counts these as problems and exits
    with 78; the daemon only warns, because the other programs can run."""
    warnings: tuple[str, ...]
    """What is allowed and perhaps not meant, in the same form. ``--check`` does not count these as problems."""
    _sources: Sources = field(repr=False)
    lacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The findings about each program, by its name."""

    @property
    def sources(self) -> Mapping[str, str]:
        """The text of each file of the configuration by its name, as it was read; secrets' files are not among them."""
        return MappingProxyType(self._sources.texts)

    def sources_json(self) -> bytes:
        """Return all that was read, for ``reload_from``. It holds the secrets in clear: keep it in memory."""
        return self._sources.to_bytes()
