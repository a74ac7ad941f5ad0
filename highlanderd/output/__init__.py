"""The daemon's own log: its form, and its way out through a thread that may block."""
