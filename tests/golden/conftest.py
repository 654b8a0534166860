"""The reference tensors and the benchmark that compares with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SET_A = ROOT.parent / "shared" / "golden" / "a"

# ``benchmarks/parity.py`` is a script with a package beside it, as a user runs it.
sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(scope="session")
def set_a() -> Path:
    """One set of reference tensors; the test is skipped where it is not."""
    if not SET_A.is_dir():
        pytest.skip("reference tensors (../shared/golden/a) are not here")
    return SET_A
