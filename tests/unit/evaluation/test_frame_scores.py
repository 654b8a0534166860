"""The table of frame scores: written in parts, averaged without the first frame."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from safa.data.clip_store import ClipInfo
from safa.evaluation import frame_scores
from safa.evaluation.frame_scores import SCORES, ScoreTable

CLIP = ClipInfo(0, "ann#v#000000#000010", "ann", "v", "test", 0, 10, 10, 25.0, 32, 32, (0, 0, 9, 9), "test")


@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize("first_counted", [0, 1])
def test_parts_make_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, first_counted: int
) -> None:
    monkeypatch.setattr(frame_scores, "ROWS_AT_ONCE", 4)  # so that batches cross the parts' ends
    psnr = torch.arange(10, dtype=torch.float64)
    psnr[6] = math.nan
    with ScoreTable(tmp_path / "x.parquet", "reconstruction", CLIP, "ben", first_counted) as table:
        for start in range(0, 10, batch):
            part = psnr[start : start + batch]
            table.add({"psnr": part, "csim_copy_source": torch.ones(1)}, len(part))
    rows = pq.read_table(tmp_path / "x.parquet").to_pydict()
    np.testing.assert_array_equal(rows["psnr"], psnr.numpy())
    assert rows["frame"] == list(range(10))
    assert rows["source_id"] == ["ben"] * 10
    assert rows["csim_copy_source"] == [1.0] * 10
    means = table.means()
    assert means["psnr"] == pytest.approx(39 / 9 if first_counted == 0 else 39 / 8)
    assert math.isnan(means["l1"])
    assert set(means) == set(SCORES)
