"""A small model, as the unit tests have it."""

from __future__ import annotations

from tests.unit.conftest import head_file, model, toy_head

__all__ = ["head_file", "model", "toy_head"]
