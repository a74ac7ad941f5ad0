"""What other software does to the ledger's tables, as sentences that name the cure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from highlanderd.postgres import fitness

DEAD_ROWS: Final = 5000
DEAD_PER_ROW: Final = 50
"""Dead versions beyond which looks become slow; each program's row leaves a few behind while all is well."""


def judge(row: tuple[str | None, ...]) -> Iterator[str]:
    """Return the warnings that follow from the answer to HEALTH."""
    dead, rows, backend, slot, prepared, triggers, emptied = row
    if int(dead or 0) > DEAD_ROWS + DEAD_PER_ROW * int(rows or 0):
        holders = [holder for holder in (prepared, slot, backend) if holder]
        who = f"; perhaps {' or '.join(holders)}: end that" if holders else ": look for long transactions, and VACUUM"
        yield (
            f"the ledger's tables hold {dead} dead versions of {rows} rows, which makes every look slow: an old "
            f"snapshot keeps VACUUM from removing them{who}"
        )
    if triggers:
        yield (
            f"the ledger's tables have foreign triggers ({triggers}), which may change what highlanderd writes; "
            "drop them"
        )
    if emptied:
        yield fitness.unlogged(emptied)
