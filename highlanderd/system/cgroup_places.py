"""Where this process' cgroup v2 can be found: /proc says which it is, and where its tree is mounted."""

# pathlib costs more memory than a keeper has
from __future__ import annotations

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Iterator


def places() -> Iterator[tuple[str, str]]:
    """Yield each directory of this process' cgroup v2, hybrid mounts included, and the mount that it is below."""
    place = next((line[3:] for line in lines("/proc/self/cgroup") if line.startswith("0::")), None)
    for root, mount in mounts():
        if place is not None:
            inside = place.removeprefix(root.rstrip("/"))
            if inside == "" or inside.startswith("/"):
                yield (mount + inside).rstrip("/"), mount


def mounts() -> Iterator[tuple[str, str]]:
    """Yield each mount of cgroup v2: which of its directories is mounted, and where."""
    for line in lines("/proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            root, mount = (_unescaped(field) for field in fields.split()[3:5])
            yield root, mount


def lines(path: str) -> list[str]:
    """Return the lines of a file of the kernel's; nothing when it cannot be read."""
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def _unescaped(field: str) -> str:
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, character)
    return field
