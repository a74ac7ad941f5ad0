"""Where a configuration is read from: first the disk, and later a copy of everything that was read there.

A worker that follows a dead one needs the configuration that its programs were started with, and the files may have
changed since. So every answer of the disk is kept, secrets included, and can be read again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from glob import glob
from pathlib import Path
from typing import Final

from highlanderd.config.toml import whole

_WILD: Final = frozenset("*?[")


@dataclass(slots=True)
class Sources:
    """Everything that was read, by the names it was asked for."""

    main: str
    """The file that names all others, as it was given."""
    start: str
    """The absolute directory that a relative ``main`` starts at."""
    host: str
    """The host's name, which a node has by default."""
    texts: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    listings: dict[str, list[str]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return all of it, secrets in clear: keep it in memory."""
        return json.dumps(asdict(self)).encode()


class Disk:
    """Reads files and remembers what they held."""

    def __init__(self, main: Path, read: Callable[[Path], bytes]) -> None:
        self.sources = Sources(str(main), str(Path.cwd()), os.uname().nodename)
        self._read = read

    def text(self, path: Path) -> bytes:
        """Read a file of the configuration. Raises OSError."""
        return self._kept(path, self.sources.texts)

    def secret(self, path: Path) -> bytes:
        """Read a secret. Raises OSError."""
        return self._kept(path, self.sources.secrets)

    def _kept(self, path: Path, kept: dict[str, str]) -> bytes:
        content = self._read(path)
        kept[str(path)] = content.decode(errors="replace")  # what is not UTF-8 is refused, and so never asked again
        return content

    def listing(self, pattern: str) -> list[str]:
        """Return the files that a pattern in the main file's directory matches, sorted; a plain name matches itself."""
        beside = Path(self.sources.main).parent
        pattern = str(pattern)  # and no subclass, which would not come back from JSON as itself
        found = self._matches(pattern, beside) if _WILD.intersection(pattern) else [pattern]
        self.sources.listings[pattern] = [str(beside / name) for name in found]
        return self.sources.listings[pattern]

    def searchable(self, pattern: str) -> bool:
        """Tell whether the directory is there that a pattern with wildcards searches. Empty, it may be meant so."""
        return self.searched(pattern).is_dir()

    def searched(self, pattern: str) -> Path:
        """Return the directory that a pattern searches."""
        before = re.split(r"[*?[]", pattern)[0]
        return Path(self.sources.main).parent / before.rpartition("/")[0]

    @staticmethod
    def _matches(pattern: str, beside: Path) -> list[str]:
        return sorted(glob(pattern, root_dir=beside, recursive=True))  # noqa: PTH207  # Path.glob refuses absolute ones


class Memory:
    """Answers as the disk once did."""

    def __init__(self, blob: bytes) -> None:
        self.sources = Sources(**json.loads(blob))

    def text(self, path: Path) -> bytes:
        """Return a file of the configuration. Raises OSError."""
        return _recalled(path, self.sources.texts)

    def secret(self, path: Path) -> bytes:
        """Return a secret. Raises OSError."""
        return _recalled(path, self.sources.secrets)

    def listing(self, pattern: str) -> list[str]:
        """Return the files that a pattern matched."""
        return self.sources.listings.get(pattern, [])

    def searchable(self, _pattern: str) -> bool:
        """Find nothing missing: what the disk lacked was said when it was asked."""
        return True


class SecretReading(Memory):
    """Answers as the disk once did, but for secrets: these it reads again."""

    def secret(self, path: Path) -> bytes:
        """Read a secret. Raises OSError."""
        return whole(path)


def _recalled(path: Path, kept: dict[str, str]) -> bytes:
    if str(path) not in kept:
        raise FileNotFoundError(f"{path} was not read when the configuration was loaded")
    return kept[str(path)].encode()
