"""Load a configuration from its files, or report every problem of it at once.

A configuration is good or bad on every host alike: a user or command that this host lacks is a finding, not a problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct, field

from highlanderd.config.checks import (
    WrittenProgram,
    check_clocks,
    check_locks,
    check_order,
    check_placement,
    check_schedule,
    warn_of_expansions,
    warn_of_failback,
    warn_of_files,
    warn_of_names,
    warn_of_postgres,
    warn_of_schedule,
    warn_of_shared_files,
    warn_of_shell,
    warn_of_threshold,
    warn_of_watchdog,
)
from highlanderd.config.configuration import Configuration, Judgement, Loaded
from highlanderd.config.host_checks import check_host
from highlanderd.config.needs import limits, scarcity, shortage
from highlanderd.config.paths import PathReader
from highlanderd.config.printing import WrittenKey, printed, printed_keys
from highlanderd.config.problems import Document, Location, Problems
from highlanderd.config.program import ProgramConfig, ProgramKeys, name_problem
from highlanderd.config.reading import Key, Reading, Table, merged
from highlanderd.config.sections import SECTIONS, DaemonSection, PostgresSection, Section
from highlanderd.config.sources import Disk, Memory, SecretReading
from highlanderd.config.suggestions import TABLES, unknown_table
from highlanderd.config.toml import Reader, parsed, unreadable, whole
from highlanderd.config.trust import directory_problem, judge_files, judge_secrets
from highlanderd.config.values import kind, located, quoted
from highlanderd.errors import ConfigurationError
from highlanderd.system import host_limits

Raw = Mapping[str, object]
Opened = tuple[Document, dict[str, object]]


def load(path: Path, environ: Mapping[str, str], read: Reader = whole) -> Loaded:
    """Load the configuration that begins with the file ``path``.

    ``environ`` is what ``${NAME}`` is looked up in. May wait for the disk and for the user database.
    Raises ConfigurationError with every problem.
    """
    source = Disk(path, read)
    loading = _Loading(source, environ)
    with PathReader() as paths:
        paths.begin()
        configuration = loading.configuration()
        _judge_files(source, loading)
        if problems := loading.problems.sorted():
            raise ConfigurationError(problems)
        findings, control = Problems(), loading.tables["control"]
        lacks = check_host(loading.programs.values(), control, environ, paths, findings, loading.warnings)
    return Loaded(configuration, findings.sorted(), loading.warnings.sorted(), loading.source.sources, lacks)


def check(path: Path, environ: Mapping[str, str], read: Reader = whole) -> Judgement:
    """Return what ``--check`` says about the configuration that begins with the file ``path``. Never raises."""
    source = Disk(path, read)
    loading = _Loading(source, environ)
    configuration = None
    with suppress(ConfigurationError):
        configuration = loading.configuration()
    _judge_files(source, loading)
    if configuration is not None:
        _judge_directories(configuration, loading)
    with PathReader() as paths:
        control = loading.tables.get("control", {})
        check_host(loading.programs.values(), control, environ, paths, loading.problems, loading.warnings)

    def merged() -> str:
        return "" if configuration is None else loading.printed(configuration)

    return Judgement(loading.problems.sorted(), loading.warnings.sorted(), configuration, merged)


def reload_from(blob: bytes, environ: Mapping[str, str]) -> Loaded:
    """Load again, from memory, what ``Loaded.sources_json`` returned: the same files, secrets and host name.

    This host is not checked again. Raises ConfigurationError with every problem, which can only come
    from another ``environ`` or another version of this program.
    """
    loading = _Loading(Memory(blob), environ)
    configuration = loading.configuration()
    return Loaded(configuration, (), loading.warnings.sorted(), loading.source.sources)


def keys_of(blob: bytes, environ: Mapping[str, str], name: str) -> tuple[WrittenKey, ...]:
    """Return the keys of one program in what ``Loaded.sources_json`` returned; none where it has no such program.

    Raises ConfigurationError, as ``reload_from`` does.
    """
    loading = _Loading(Memory(blob), environ)
    loading.configuration()
    found = loading.programs.get(name)
    return () if found is None else tuple(printed_keys(found.program, found.table))


def dsn_anew(blob: bytes, environ: Mapping[str, str]) -> str:
    """Return ``postgres.dsn`` of what ``Loaded.sources_json`` returned, with its file as it is now.

    May wait for the disk. Raises ConfigurationError when the file cannot be used.
    """
    loading = _Loading(SecretReading(blob), environ)
    return loading.postgres().dsn.get_secret_value()


def _judge_files(source: Disk, loading: _Loading) -> None:
    judge_files(source, loading.problems, loading.warnings)
    postgres, start = loading.tables.get("postgres", {}), Path(source.sources.start)
    judge_secrets(start, postgres, loading.programs.values(), loading.warnings)


def _judge_directories(configuration: Configuration, loading: _Loading) -> None:
    """Report the directories of the daemon that it will refuse to use."""
    daemon, socket = configuration.daemon, configuration.control.socket
    judged = (
        (daemon.state_dir, False, loading.tables["daemon"].get("state_dir")),
        (daemon.run_dir, False, loading.tables["daemon"].get("run_dir")),
        (socket.parent, True, loading.tables["control"].get("socket")),
    )
    for directory, shared, written in judged:
        problem = directory_problem(directory, shared=shared)
        if problem and written is None:
            loading.problems.add_file(str(directory), problem)
        elif problem and written is not None:
            loading.problems.add(written.location, problem)


class _Loading(Struct):
    source: Disk | Memory
    environ: Mapping[str, str]
    problems: Problems = field(default_factory=Problems)
    warnings: Problems = field(default_factory=Problems)
    locations: dict[str, Location] = field(default_factory=dict)
    programs: dict[str, WrittenProgram] = field(default_factory=dict)
    tables: dict[str, dict[str, Key]] = field(default_factory=dict)

    def configuration(self) -> Configuration:
        opened = self._open(self.source.sources.main, None)
        if opened is None:
            raise ConfigurationError(self.problems.sorted())
        main, raw = opened
        top = Location(main, ())
        for name in raw.keys() - set(TABLES):
            self.problems.add(top / name, unknown_table(name, raw[name]))
        tables = self._sections(raw, top)
        models = {name: self._reading.model(SECTIONS[name], tables[name], top / name) for name in SECTIONS}
        self._describe(raw, main, self._included(tables["daemon"], main))
        configuration = self._checked(models)
        self._warn(configuration, tables, top)
        return configuration

    def printed(self, configuration: Configuration) -> str:
        """Return the configuration with the place of each value."""
        models = {name: getattr(configuration, name) for name in SECTIONS}
        return printed(models, self.tables, self.programs.values())

    def postgres(self) -> PostgresSection:
        """Return that section alone. Raises ConfigurationError."""
        opened = self._open(self.source.sources.main, None)
        if opened is not None:
            document, raw = opened
            location = Location(document, ("postgres",))
            keys = self._reading.keys(PostgresSection, raw.get("postgres", {}), location, "postgres")
            found = self._reading.model(PostgresSection, keys, location)
            if found is not None:
                return found
        raise ConfigurationError(self.problems.sorted())

    @property
    def _reading(self) -> Reading:
        return Reading(self.environ, self.source.secret, Path(self.source.sources.start), self.problems)

    def _open(self, name: str, said: Location | None) -> Opened | None:
        """Read and parse a file. A file that cannot be read is a problem of the key that names it."""
        try:
            content = self.source.text(Path(name))
        except OSError as error:
            if said is None:
                self.problems.add_file(name, unreadable(error))
            else:
                self.problems.add(said, f"{name}: {unreadable(error)}")
            return None
        return parsed(name, content, self.problems)

    def _sections(self, raw: Raw, top: Location) -> dict[str, dict[str, Key]]:
        """Return all tables except programs', with the defaults that follow from this host and from other keys."""
        tables = {
            name: self._reading.keys(model, raw.get(name, {}), top / name, name) for name, model in SECTIONS.items()
        }
        daemon, control = tables["daemon"], tables["control"]
        daemon.setdefault("node", Key(self.source.sources.host, top / "daemon" / "node"))
        socket = _socket_in(daemon["run_dir"]) if "run_dir" in daemon else None
        if socket is not None:
            control.setdefault("socket", socket)
        self.tables = tables
        return tables

    def _included(self, daemon: Table, main: Document) -> Iterator[Opened]:
        """Return each further file once, in the order of the patterns."""
        seen = {main.name}
        for pattern, location in _patterns(daemon):
            names = self.source.listing(pattern)
            if not names and not self.source.searchable(pattern):
                self.warnings.add(location, f"there is no directory for {quoted(pattern)}; correct it, or create one")
            for name in names:
                opened = None if name in seen else self._open(name, location)
                seen.add(name)
                if opened is not None:
                    yield opened

    def _describe(self, raw: Raw, main: Document, included: Iterator[Opened]) -> None:
        """Collect the programs of all files."""
        reading, location = self._reading, Location(main, ("defaults",))
        defaults = reading.keys(ProgramKeys, raw.get("defaults", {}), location, "defaults")
        # Judged once without any program: a mistake shows even if each program has a value of its own for the key.
        reading.model(
            ProgramConfig,
            {"name": Key("defaults", location), "command": Key(("true",), location), **defaults},
            location,
        )
        self._programs(raw.get("program", {}), Location(main, ("program",)), defaults)
        for document, further in included:
            for name in further.keys() - {"program"}:
                self.problems.add(
                    Location(document, (name,)),
                    f"an included file holds [program.NAME] tables only; move this to {main.name}",
                )
            self._programs(further.get("program", {}), Location(document, ("program",)), defaults)

    def _programs(self, raw: object, location: Location, defaults: Table) -> None:
        """Add the programs of one file."""
        if not isinstance(raw, dict):
            self.problems.add(location, f"is {kind(raw)}; write a table for each program: [program.NAME]")
            return
        for name, table in raw.items():
            if not isinstance(table, dict):
                self.problems.add(location / name, f"is {kind(table)}; a program needs a name: write [program.NAME]")
            elif wrong := name_problem(name):
                self.problems.add(location / name, wrong)
            elif name in self.locations:
                first = self.locations[name]
                self.problems.add(location / name, f"is defined at {first} already; remove one of them or rename it")
            else:
                self.locations[name] = location / name
                self._program(name, table, location / name, defaults)

    def _program(self, name: str, raw: Raw, location: Location, defaults: Table) -> None:
        own = self._reading.keys(ProgramKeys, raw, location, f"program.{name}")
        table = {**merged(defaults, own), "name": Key(name, location)}
        program = self._reading.model(ProgramConfig, table, location)
        if program is not None:
            self.programs[name] = WrittenProgram(program, table, location)

    def _checked(self, models: Mapping[str, Section | None]) -> Configuration:
        """Check what takes more than one key, and return the configuration. Raises ConfigurationError."""
        daemon = models["daemon"]
        if isinstance(daemon, DaemonSection):
            check_locks(daemon.namespace, self.programs.values(), self.problems)
        for written in self.programs.values():
            check_clocks(written, self.problems)
            check_placement(written, self.problems)
            check_schedule(written, self.problems)
        check_order(self.programs, self.problems)
        if self.problems.sorted():
            raise ConfigurationError(self.problems.sorted())
        programs = {name: written.program for name, written in self.programs.items()}
        return Configuration(**models, programs=MappingProxyType(programs))  # type: ignore[arg-type]  # none is None

    def _warn(self, configuration: Configuration, tables: Mapping[str, Table], top: Location) -> None:
        node = tables["daemon"]["node"].location
        warn_of_names(configuration, node, top / "program", self.warnings)
        warn_of_postgres(configuration, tables["postgres"], top / "postgres", self.warnings)
        programs = configuration.programs
        for short in filter(None, (shortage(programs, limits()), scarcity(programs, host_limits.memory()))):
            self.warnings.add(top / "program", short)
        warn_of_shared_files(self.programs.values(), self.warnings)
        for written in self.programs.values():
            warn_of_shell(written, self.warnings)
            warn_of_files(written, self.warnings)
            warn_of_watchdog(written, self.warnings)
            warn_of_threshold(written, self.warnings)
            warn_of_failback(written, self.warnings)
            warn_of_schedule(written, self.warnings)
            warn_of_expansions(written, self.environ, self.warnings)


def _socket_in(run_dir: Key) -> Key | None:
    try:
        return Key(located(run_dir.value) / "control.sock", run_dir.location)
    except ValueError:
        return None  # the model says why


def _patterns(daemon: Table) -> Iterator[tuple[str, Location]]:
    """Return the patterns that are strings; the model says what is wrong with others."""
    include = daemon.get("include")
    if include is not None and isinstance(include.value, str):
        yield include.value, include.location
    elif include is not None and isinstance(include.value, list):
        for index, pattern in enumerate(include.value):
            if isinstance(pattern, str):
                yield pattern, include.location / index
