"""The world of the wire tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

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


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Hundreds of small files are written here, and none has to outlive the machine."""
    with patch.object(os, "fsync", lambda _: None):
        yield
