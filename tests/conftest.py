"""What every rung of the ladder shares: see README.md beside this file."""

from __future__ import annotations

pytest_plugins = ["fix_postgres", "fix_proxy", "fix_nodes", "fix_floods"]
