"""The world of the wire tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from safa.head.assets import HeadAssets
from tests.contract.wires.world import World
from tests.unit.conftest import head_file, toy_head

__all__ = ["head_file", "toy_head"]


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    toy_head: HeadAssets,
    head_file: Path,
    tiny_clips: Path,
) -> World:
    return World(tmp_path_factory.mktemp("world"), toy_head, head_file, tiny_clips)
