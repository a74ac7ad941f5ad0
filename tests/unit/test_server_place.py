"""Where a server is, as people are told: every host with its own port, and nothing secret."""

from __future__ import annotations

import pytest

from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.server import Server


@pytest.mark.parametrize(
    ("dsn", "place"),
    [
        ("postgresql://u:secret@db1/ops", "db1/ops"),
        ("postgresql://u:secret@db1:5433/ops", "db1:5433/ops"),
        ("postgresql://u@db1:5432,db2:5433/ops", "db1:5432,db2:5433/ops"),
        ("postgresql://u@db1,db2:5433/ops", "db1,db2:5433/ops"),
        ("host=db1,db2 port=5433 user=u dbname=ops", "db1:5433,db2:5433/ops"),
        ("host=/run/pg user=u", "/run/pg/u"),
    ],
)
def test_each_host_is_shown_with_its_port_and_no_password(dsn: str, place: str) -> None:
    assert Server(dsn, Ledger("highlander", "highlander", 10.0), node="a", fresh=None).address == place
