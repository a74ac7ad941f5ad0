"""Hypothesis as a busy machine needs it: the same examples in every run, however long each of them takes."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "busy machines", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy machines")
