"""Measurements of the real thing. They print, and never fail for being slow."""
