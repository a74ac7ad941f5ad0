"""The text of a page of metrics, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


def page(lines: Iterable[str]) -> bytes:
    """Return the page of these lines."""
    return "\n".join((*lines, "")).encode()


def family(name: str, kind: str, said: str, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    """Yield the lines of one metric: of each sample its labels, as ``labels`` writes them, and its value.

    >>> list(family("up", "gauge", "Whether it is up.", [("", 1)]))
    ['# HELP up Whether it is up.', '# TYPE up gauge', 'up 1.0']
    """
    escaped = said.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name} {escaped}"
    yield f"# TYPE {name} {kind}"
    yield from [f"{name}{labels} {float(value)!r}" for labels, value in samples]


def labels(labelled: Mapping[str, str]) -> str:
    r"""Write labels as they stand behind the name of a metric; nothing without any.

    >>> labels({"program": 'a"b'}), labels({})
    ('{program="a\\"b"}', '')
    """
    if not labelled:
        return ""
    return "{" + ",".join([f'{name}="{_escaped(value)}"' for name, value in labelled.items()]) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
