"""The worker: programs, PostgreSQL, listeners and signals wired together. It can be replaced at any moment."""
