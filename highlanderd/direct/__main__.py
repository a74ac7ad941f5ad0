"""Answer one question without a daemon: print the JSON that ``GET`` of the same path on its control socket would give.

The path is the argument. The DSN, or the configuration's path, is in the environment, where no other user sees it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from highlanderd.config import load
from highlanderd.config.dsn import options
from highlanderd.direct.questions import SCHEMA, answer, configured, keys
from highlanderd.embedded.server import dsn_of
from highlanderd.errors import BadRequest, HighlanderError


def main() -> int:
    """Print the answer, or the error as the control socket would give it."""
    try:
        print(json.dumps(_answer(sys.argv[1], os.environ.get("HIGHLANDER_DSN", ""))))
    except HighlanderError as error:
        print(json.dumps({"error": {"code": error.code, "message": str(error)}}))
        return error.exit_code
    return 0


def _answer(resource: str, dsn: str) -> Mapping[str, object]:
    """Return the answer; what the configuration alone says is not asked of PostgreSQL. Raises HighlanderError."""
    schema = SCHEMA
    if path := os.environ.get("HIGHLANDER_CONFIG"):
        loaded = load(Path(path), os.environ)
        if name := configured(resource):
            return keys(loaded, name)
        postgres, directory = loaded.configuration.postgres, loaded.configuration.embedded_directory
        dsn = postgres.dsn.get_secret_value() if directory is None else dsn_of(directory)
        schema = postgres.schema_
    else:
        _refuse_unusable(dsn)
    return asyncio.run(answer(resource, dsn, schema))


def _refuse_unusable(dsn: str) -> None:
    """Raise BadRequest for what ``--dsn`` does not take."""
    scheme = dsn.partition(":")[0]
    if scheme in ("embedded", "file"):
        raise BadRequest(
            f"--dsn takes a connection string such as postgresql://highlander@db1/ops; what a configuration means by "
            f"{scheme!r}, --config FILE says"
        )
    try:
        options(dsn)
    except ValueError as refusal:
        raise BadRequest(f"--dsn: {refusal}") from None


if __name__ == "__main__":
    sys.exit(main())
