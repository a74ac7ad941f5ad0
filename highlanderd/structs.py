"""A struct with some of its fields replaced. Where types are checked, so are names and types of what is replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # mypy takes a struct for a dataclass, and would let msgspec's own pass anything
    from dataclasses import replace
else:
    from msgspec.structs import replace

__all__ = ["replace"]
