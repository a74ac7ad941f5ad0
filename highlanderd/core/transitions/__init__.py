"""The cells of the machine's table: a module for each state, and one for backoff and stopped together."""
