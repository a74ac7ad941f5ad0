"""Decisions, parsing and messages: no input or output."""
