"""The worker: programs, PostgreSQL, listeners and signals wired together, replaced at any moment."""
