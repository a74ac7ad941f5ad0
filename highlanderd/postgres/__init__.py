"""PostgreSQL as the only coordinator: the driver, the pool, the ledger, and the programs' sessions."""
