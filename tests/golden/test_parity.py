"""The networks give the reference's numbers: every case of ``benchmarks/parity.py`` as a test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import parity
import pytest
import torch
from parity_cases.golden import Golden
from parity_cases.rows import failures, table

from safa.errors import EXIT_USER_ERROR, run_reporting_errors

# What takes minutes (float64) is left to the benchmark itself.
BENCHMARK_ONLY = {"float64"}
# A soak: the same steps with another mask, or what animation_rel passes through as well.
LONG = {"train_soft", "animation_abs", "animation_rel_adapt", "batch2"}
MARKS = {"train": [pytest.mark.slow]} | {name: [pytest.mark.soak] for name in LONG}
CASES = [
    pytest.param(name, marks=MARKS.get(name, [])) for name, *_ in parity.CASES if name not in BENCHMARK_ONLY
]


@pytest.fixture(scope="module")
def golden(set_a: Path) -> Iterator[Golden]:
    """Filled networks, built once; in as many threads as the benchmark takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(parity.THREADS)
    yield Golden(set_a)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(golden: Golden, case: str) -> None:
    rows = parity.run(golden, [case])
    assert rows
    failed = failures(rows)
    assert not failed, "\n" + table(failed)


def test_a_single_wrong_number_fails_the_run(
    set_a: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = tmp_path / "set"
    spoilt.mkdir()
    shutil.copy(set_a / "seed.txt", spoilt)
    arrays = dict(np.load(set_a / "contextual_attention.npz"))
    arguments = ["--golden", str(spoilt), "--json", str(tmp_path / "rows.json")]
    np.savez(spoilt / "contextual_attention.npz", **arrays)
    assert parity.main([*arguments, "--only", "attention"]) == 0
    arrays["soft_mean"][0, 0] += 1e-3
    np.savez(spoilt / "contextual_attention.npz", **arrays)
    assert parity.main([*arguments, "--only", "attention"]) == 1
    assert "attention/soft_mean" in capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["tensor"] for row in rows if not row["passed"]] == ["soft_mean"]


def test_a_folder_without_reference_tensors_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_reporting_errors(lambda: parity.main(["--golden", str(tmp_path)])) == EXIT_USER_ERROR
    assert (
        capsys.readouterr().err.strip()
        == f"error: {tmp_path}: no seed.txt: not a folder of reference tensors"
    )
