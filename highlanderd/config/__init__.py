"""The configuration: what people write, checked as a whole, and what the daemon runs by.

``load`` and ``reload_from`` give a ``Configuration`` of frozen values or refuse with every problem at once. It starts
nothing, connects to nothing, and writes nothing.
"""

from highlanderd.config.configuration import Configuration, Judgement, Loaded
from highlanderd.config.environment import child_environment
from highlanderd.config.identity import Identity, identity
from highlanderd.config.loading import check, load, reload_from
from highlanderd.config.program import ProgramConfig, ProgramKeys, difference
from highlanderd.config.sections import (
    SECTIONS,
    ControlSection,
    DaemonSection,
    LogSection,
    MetricsSection,
    PostgresSection,
)

__all__ = [
    "SECTIONS",
    "Configuration",
    "ControlSection",
    "DaemonSection",
    "Identity",
    "Judgement",
    "Loaded",
    "LogSection",
    "MetricsSection",
    "PostgresSection",
    "ProgramConfig",
    "ProgramKeys",
    "check",
    "child_environment",
    "difference",
    "identity",
    "load",
    "reload_from",
]
