from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from safa.config.inference import AnimationConfig, EvaluateConfig, TransferConfig
from safa.data.schema import Code, Refused
from safa.data.store import ClipStore
from safa.data.video import probe, read_frames
from safa.head.model import landmarks_px
from safa.inference.animator import Animator
from safa.inference.evaluation import FILM, FRAMES, RESULT, STRIP, ClipEvaluator, ClipResult
from safa.inference.jobs import EvaluationJob
from safa.inference.scores import SCORES
from safa.metrics import landmark_nme, psnr, ssim
from safa.models.safa import Safa

ANN, BEN, DAN = (f"{person}#v#000000#000006" for person in ("ann", "ben", "dan"))
REBUILD = EvaluationJob("reconstruction", DAN, DAN)
ANIMATE = EvaluationJob("animation", ANN, BEN)


def evaluator(model: Safa, clips: Path, batch_size: int = 4, **changes: object) -> ClipEvaluator:
    paths = {
        "model": Path("m"),
        "clips": clips,
        "out": Path("o"),
        "pictures": {"panel": 32, "strip_frames": 3},
    }
    config = EvaluateConfig.model_validate({**paths, **changes})
    return ClipEvaluator(Animator(model, batch_size=batch_size), ClipStore(clips), config)


@torch.no_grad()
def test_scores_against_a_naive_loop(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluator(model, tiny_clips).run(REBUILD, tmp_path / "out")
    store = ClipStore(tiny_clips)
    frames = torch.from_numpy(np.stack(store.frames(DAN, range(6)))).permute(0, 3, 1, 2).float() / 255
    given = torch.from_numpy(store.landmarks(DAN))
    wanted: dict[str, list[float]] = {score: [] for score in SCORES}
    for t in range(1, 6):
        face = model.analyse(frames[t : t + 1])
        prediction = model.reenact(model.prepare_source(frames[:1]), face).prediction
        wanted["psnr"].append(psnr(prediction, frames[t : t + 1]).item())
        wanted["ssim_copy_source"].append(ssim(frames[:1], frames[t : t + 1]).item())
        points = landmarks_px(model.tdmm.geometry(face.code), 32)
        wanted["landmark_nme"].append(landmark_nme(points, given[t : t + 1]).item())
    for score in ("psnr", "ssim_copy_source", "landmark_nme"):
        assert result.scores[score] == pytest.approx(np.mean(wanted[score]), rel=1e-4), score
    assert set(result.scores) == set(SCORES)
    assert result.n_frames == 6


def test_numbers_do_not_depend_on_the_batch_size(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    results = [
        evaluator(model, tiny_clips, size).run(REBUILD, tmp_path / str(size)).scores for size in (1, 2, 6)
    ]
    for scores in results[1:]:
        assert scores == pytest.approx(results[0], abs=1e-5, nan_ok=True)


def test_the_table_holds_every_frame(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluator(model, tiny_clips).run(REBUILD, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / FRAMES).to_pydict()
    assert rows["frame"] == list(range(6))
    assert rows["clip_id"] == [DAN] * 6
    assert rows["person_id"] == ["dan"] * 6
    assert rows["psnr_copy_source"][0] == 100  # the source against itself, so it is in no mean
    assert result.scores["psnr_copy_source"] == pytest.approx(np.mean(rows["psnr_copy_source"][1:]))


def test_the_film_is_as_long_as_the_clip(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    evaluator(model, tiny_clips).run(ANIMATE, tmp_path / "out")
    film = tmp_path / "out" / FILM
    assert len(list(read_frames(film))) == 6
    info = probe(film)
    assert info.fps == 25
    assert info.width > 3 * 32
    with Image.open(tmp_path / "out" / STRIP) as strip:
        assert strip.width > 11 * 32
        assert strip.height > 3 * 32


def test_nobody_knows_the_truth_of_an_animation(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluator(model, tiny_clips).run(ANIMATE, tmp_path / "out")
    assert result.scores == {}
    assert (result.source_person, result.driving_person) == ("ann", "ben")
    assert not (tmp_path / "out" / FRAMES).exists()


@pytest.mark.parametrize("adapt_scale", [False, True])
def test_a_best_frame_is_taken_as_the_reference(
    model: Safa, tiny_clips: Path, tmp_path: Path, adapt_scale: bool
) -> None:
    transfer = TransferConfig(best_frame=True, adapt_scale=adapt_scale)
    clips = evaluator(model, tiny_clips, animation=AnimationConfig(transfer=transfer))
    assert clips.run(ANIMATE, tmp_path / "out").n_frames == 6


def test_only_the_first_frames(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluator(model, tiny_clips, frames=3).run(REBUILD, tmp_path / "out")
    assert result.n_frames == 3
    assert len(list(read_frames(tmp_path / "out" / FILM))) == 3


def test_results_survive_being_written(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluator(model, tiny_clips).run(REBUILD, tmp_path / "out")
    assert ClipResult.from_json((tmp_path / "out" / RESULT).read_text()) == result


def test_a_clip_without_a_face_has_no_landmark_error(
    model: Safa, clip_row: Callable[..., dict[str, Any]], write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    clips = write_clips(tmp_path / "clips", [clip_row("dan", "test", faces=False)])
    result = evaluator(model, clips).run(REBUILD, tmp_path / "out")
    assert math.isnan(result.scores["landmark_nme"])
    assert math.isfinite(result.scores["psnr"])
    assert '"landmark_nme": null' in result.to_json()
    assert math.isnan(ClipResult.from_json(result.to_json()).scores["landmark_nme"])


def test_a_damaged_frame_refuses_the_clip_and_leaves_nothing(
    model: Safa, clip_row: Callable[..., dict[str, Any]], write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    row = clip_row("dan", "test")
    row["frames"][4] = row["frames"][4][:60]
    clips = write_clips(tmp_path / "clips", [row])
    with pytest.raises(Refused, match="frame 4: not a readable picture") as refusal:
        evaluator(model, clips).run(REBUILD, tmp_path / "out")
    assert refusal.value.code == Code.DECODE
    assert not (tmp_path / "out").exists()


def test_one_frame_is_too_short(
    model: Safa, clip_row: Callable[..., dict[str, Any]], write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    row = clip_row("dan", "test")
    for column in ("frames", "landmarks", "face_score"):
        row[column] = row[column][:1]
    clips = write_clips(tmp_path / "clips", [row | {"n_frames": 1}])
    with pytest.raises(Refused) as refusal:
        evaluator(model, clips).run(REBUILD, tmp_path / "out")
    assert refusal.value.code == Code.TOO_SHORT
