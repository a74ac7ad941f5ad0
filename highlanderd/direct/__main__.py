"""Answer one question without a daemon: print the JSON that ``GET`` of the same path on its control socket would give.

The path is the argument. The DSN, or the configuration's path, is in the environment, where no other user sees it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from highlanderd.config import load
from highlanderd.direct.questions import SCHEMA, answer
from highlanderd.errors import HighlanderError


def main() -> int:
    """Print the answer, or the error as the control socket would give it."""
    try:
        dsn, schema = os.environ.get("HIGHLANDER_DSN", ""), SCHEMA
        if path := os.environ.get("HIGHLANDER_CONFIG"):
            postgres = load(Path(path), os.environ).configuration.postgres
            dsn, schema = postgres.dsn.get_secret_value(), postgres.schema_
        print(json.dumps(asyncio.run(answer(sys.argv[1], dsn, schema))))
    except HighlanderError as error:
        print(json.dumps({"error": {"code": error.code, "message": str(error)}}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
