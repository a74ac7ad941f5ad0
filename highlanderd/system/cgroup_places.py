"""Where this process' cgroups can be found: /proc says which they are, and where their trees are mounted."""

# pathlib costs more memory than a keeper has
from __future__ import annotations

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Iterator


def places(controller: str = "") -> Iterator[tuple[str, str]]:
    """Yield each directory of this process' cgroup v2, hybrid mounts included, and the mount that it is below.

    With a controller: of its cgroup v1 instead, which has the controller where version 2 does not.
    """
    place = _place(controller)
    for root, mount in mounts(controller):
        if place is not None:
            inside = place.removeprefix(root.rstrip("/"))
            if inside == "" or inside.startswith("/"):
                yield (mount + inside).rstrip("/"), mount


def _place(controller: str) -> str | None:
    for line in lines("/proc/self/cgroup"):
        _, controllers, place = line.split(":", 2)
        if controller in controllers.split(","):  # version 2 names none
            return place
    return None


def mounts(controller: str = "") -> Iterator[tuple[str, str]]:
    """Yield each mount of cgroup v2, or of a controller's v1: which of its directories is mounted, and where."""
    for line in lines("/proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if (kind == "cgroup" and controller in options.split(",")) if controller else kind == "cgroup2":
            root, mount = (_unescaped(field) for field in fields.split()[3:5])
            yield root, mount


def lines(path: str) -> list[str]:
    """Return the lines of a file of the kernel's; nothing when it cannot be read. Names in it may hold any bytes."""
    try:
        with open(path, newline="\n", errors="surrogateescape") as file:
            return [line for line in file.read().split("\n") if line]
    except OSError:
        return []


def _unescaped(field: str) -> str:
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, character)
    return field
