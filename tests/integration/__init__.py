"""One part against real PostgreSQL and real processes."""
