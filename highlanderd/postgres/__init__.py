"""PostgreSQL as the only coordinator: the driver, the pool, the ledger, and one session per program."""
