"""One answer in each of the formats of ``-o``: a table for people, JSON, or the table's cells between tabs."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence

Row = Sequence[str]


def give(
    arguments: Namespace,
    answer: object,
    lines: Callable[[], Iterable[str]],
    rows: Callable[[], Iterable[Row]] | None = None,
) -> None:
    """Print an answer as ``-o`` wants it. Without ``rows`` each of the lines is the only cell of its row."""
    match arguments.output:
        case "json":
            text = json.dumps(answer, indent=None if getattr(arguments, "watch", False) else 2)
        case "tsv" if rows is not None:
            text = "\n".join(map("\t".join, rows()))
        case _:
            text = "\n".join(lines())
    print(text, flush=True)
