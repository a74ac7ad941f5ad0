"""A hostile neighbour: one program misbehaves in every way that it can, and five others must not notice."""

from typing import Final

SECONDS: Final = "HIGHLANDER_HOSTILE_SECONDS"
"""In the environment: how long the neighbour is hostile."""
