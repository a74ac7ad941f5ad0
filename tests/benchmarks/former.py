"""Before and after in one run: these measurements of an earlier commit's daemons and of this one's, part by part.

``python -m tests.benchmarks.former COMMIT``; parts may be named behind it. Peers are left out. An earlier commit needs
a ledger of its own schema, takes orders with fewer fields, and is started by an exec: so are both. Output is measured
through whole daemons, because not every commit has a process of its own for it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support import nodes
from tests.support.postgres import Database

from . import growth, handover, output, replacement
from .results import OURS, lacking

SIZES = {"OUTAGES_SIZES": "100", "REPLACEMENT_PROGRAMS": "1,10,100", "GROWTH_SIZES": "1,100"}
"""What an earlier commit may not manage is left out."""
PARTS = ("handover", "start", "outages", "replacement", "growth", "output")
SCHEMA = """
import json, sys
from highlanderd.postgres.ledger import Ledger
try:
    from highlanderd.postgres.sql.leading import SETTLE_FRESH
except ImportError:  # the first ones
    from highlanderd.postgres.ledger import SETTLE_FRESH
made = Ledger("highlander", "highlander", float(sys.argv[1]))
print(json.dumps([made.creation().sql, made.statement("settle", SETTLE_FRESH).sql]))
"""


def exported(commit: str, tree: Path) -> Path:
    """Return a directory with that commit's package. Raises CalledProcessError where there is no such commit."""
    archive = subprocess.run(
        ["git", "-C", str(nodes.PACKAGE), "archive", commit, "highlanderd"], stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
    return tree


def settle(tree: Path, database: Database, lease: float) -> None:
    """Create a settled ledger, as ``settled_ledger`` does, in the words of another commit."""
    as_admin = conninfo_to_dict(make_conninfo(database.dsn, user=database.server.user))
    database.sql(f'GRANT CREATE ON DATABASE "{as_admin["dbname"]}" TO "{database.role}"', admin=True)
    said = subprocess.run(
        [sys.executable, "-c", SCHEMA, str(lease)], env={"PYTHONPATH": str(tree)}, stdout=subprocess.PIPE, check=True
    )
    for statement in json.loads(said.stdout):
        database.sql(statement)


class FormerDaemons(handover.Daemons):
    """Two daemons of another commit. The first ones knew no field of a release."""

    RELEASE: ClassVar[dict[str, object]] = {}


def modes(tree: Path) -> dict[str, dict[str, Any]]:
    """Return how a second node can wait there; say which way an earlier commit does not know."""
    key = "standby_connections"
    if any(key in file.read_text() for file in tree.glob("highlanderd/**/*.py")):
        return growth.MODES
    lacking("growth", OURS, f"this commit has no {key}, so a second node waits in one way only")
    return {part: keys for part, keys in growth.MODES.items() if key not in keys}


def measure(part: str, tree: Path) -> None:
    """Run one part with the daemons of ``tree``."""
    module = importlib.import_module(f"tests.benchmarks.{part}")
    _replace(module, PACKAGE=tree, SUPERVISORS={}, fetch=lambda: None, peers=lambda *_: iter(()))
    _replace(module, settled_ledger=lambda database, lease: settle(tree, database, lease), Daemons=FormerDaemons)
    _replace(replacement, HELD=replacement.HELD.replace("r.trusted_for", "interval '30 s'"))
    if part == "growth":
        _replace(module, MODES=modes(tree), newer=lambda _: None)
    _replace(module, WAYS={OURS: output.whole_daemon})
    _replace(nodes, PACKAGE=tree, forkable=lambda *_: False)
    module.main()


def _replace(module: ModuleType, **values: object) -> None:
    for name, value in values.items():
        if hasattr(module, name):
            setattr(module, name, value)


def main() -> None:
    """Run each part twice, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.former", description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--tree", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tree is not None:
        measure(arguments.parts[0], arguments.tree)
        return
    with tempfile.TemporaryDirectory(prefix="hl-former-") as place:
        former = exported(arguments.commit, Path(place))
        for part in arguments.parts or PARTS:
            for what, tree in ((f"at {arguments.commit}", former), ("now", nodes.PACKAGE)):
                print(f"\n{part}, {what}", flush=True)
                command = [sys.executable, "-m", "tests.benchmarks.former", arguments.commit, part, "--tree", str(tree)]
                environment = {**SIZES, **os.environ, "PYTHONPATH": str(nodes.PACKAGE)}
                subprocess.run(command, cwd="/", env=environment, check=False)  # -m prefers what is in its directory


if __name__ == "__main__":
    main()
