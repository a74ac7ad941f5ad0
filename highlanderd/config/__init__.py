"""The configuration: what people write, checked as a whole, and what the daemon runs by.

``load`` reads the files, and returns a ``Configuration`` of frozen values or raises with every problem at once. Nothing
here starts a process, connects to anything, or writes a file.

To read on: ``program.py`` and ``sections.py`` hold every key; ``loading.py`` goes from the files to the values;
``values.py`` says what a duration, a size or a signal is; ``checks.py`` and ``host_checks.py`` judge the whole.
"""

from highlanderd.config.configuration import Configuration, Judgement, Loaded
from highlanderd.config.environment import child_environment, looks_elsewhere
from highlanderd.config.host_checks import lacks_now
from highlanderd.config.identity import Identity, identity
from highlanderd.config.loading import check, dsn_anew, keys_of, load, reload_from
from highlanderd.config.printing import WrittenKey, written
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
    "WrittenKey",
    "check",
    "child_environment",
    "difference",
    "dsn_anew",
    "identity",
    "keys_of",
    "lacks_now",
    "load",
    "looks_elsewhere",
    "reload_from",
    "written",
]
