"""A private PostgreSQL for trying things out: never for production."""
