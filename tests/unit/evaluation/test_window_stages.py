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

from safa.config.inference import AnimationConfig, EvaluateConfig, MeshConfig, TransferConfig, VisualsConfig
from safa.data.clip_store import ClipStore
from safa.data.video import probe, read_frames
from safa.errors import ClipError, FailureCode
from safa.evaluation.clip_files import MESHES, POSTER, STRIP, VIDEO
from safa.evaluation.frame_scores import CLIP_SCORES, SCORES
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.parts import FEATURES, fid_of_parts
from safa.evaluation.scorers import Scorers
from safa.evaluation.window_stages import AllStages, FrameReader
from safa.evaluation.windows import windows_of
from safa.head.model import landmarks_px
from safa.inference.model_runner import ModelRunner
from safa.inference.swap_mask import FaceMask
from safa.metrics import landmark_nme, psnr, ssim
from safa.metrics.lpips import Lpips
from safa.models.face_parser import FaceParser
from safa.models.safa import Safa
from tests.evaluating import evaluate

ANN, BEN, DAN = (f"{person}#v#000000#000006" for person in ("ann", "ben", "dan"))
RECONSTRUCT = EvaluationJob("reconstruction", DAN, DAN)
ANIMATE = EvaluationJob("animation", ANN, BEN)


def evaluator(
    model: Safa,
    clips: Path,
    batch_size: int = 4,
    scorers: Scorers | None = None,
    mask: FaceMask | None = None,
    **changes: object,
) -> AllStages:
    paths = {
        "model": Path("m"),
        "clips": clips,
        "out": Path("o"),
        "visuals": {"panel": 32, "strip_frames": 3},
    }
    config = EvaluateConfig.model_validate({**paths, **changes})
    return AllStages(ModelRunner(model, batch_size=batch_size), ClipStore(clips), config, scorers, mask)


@torch.no_grad()
def test_scores_against_a_naive_loop(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluate(evaluator(model, tiny_clips), RECONSTRUCT, tmp_path / "out")
    store = ClipStore(tiny_clips)
    frames = torch.from_numpy(np.stack(store.frames(DAN, range(6)))).permute(0, 3, 1, 2).float() / 255
    landmarks = torch.from_numpy(store.landmarks(DAN))
    expected: dict[str, list[float]] = {score: [] for score in SCORES}
    for t in range(1, 6):
        face = model.analyse(frames[t : t + 1])
        prediction = model.reenact(model.prepare_source(frames[:1]), face).prediction
        expected["psnr"].append(psnr(prediction, frames[t : t + 1]).item())
        expected["ssim_copy_source"].append(ssim(frames[:1], frames[t : t + 1]).item())
        points = landmarks_px(model.tdmm.geometry(face.code), 32)
        expected["landmark_nme"].append(landmark_nme(points, landmarks[t : t + 1]).item())
    for score in ("psnr", "ssim_copy_source", "landmark_nme"):
        assert result.scores[score] == pytest.approx(np.mean(expected[score]), rel=1e-4), score
    assert set(result.scores) == set(CLIP_SCORES)
    assert result.n_frames == 6


@pytest.mark.parametrize(("batch", "window"), [(1, 128), (2, 128), (4, 5), (4, 3), (2, 4)])
def test_numbers_do_not_depend_on_batch_and_window(
    model: Safa, tiny_clips: Path, tmp_path: Path, batch: int, window: int
) -> None:
    whole = evaluate(evaluator(model, tiny_clips, 6), RECONSTRUCT, tmp_path / "whole")
    parts = evaluate(evaluator(model, tiny_clips, batch), RECONSTRUCT, tmp_path / "parts", length=window)
    assert dict(parts.scores) == pytest.approx(dict(whole.scores), abs=1e-5, nan_ok=True)
    assert parts.frames["frame"] == whole.frames["frame"]
    for score in SCORES:  # of every frame, the first of each window too
        np.testing.assert_allclose(parts.frames[score], whole.frames[score], atol=1e-5)


def test_the_table_holds_every_frame(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluate(evaluator(model, tiny_clips), RECONSTRUCT, tmp_path / "out")
    rows = result.frames
    assert rows["frame"] == list(range(6))
    assert rows["clip_id"] == [DAN] * 6
    assert rows["person_id"] == ["dan"] * 6
    assert rows["psnr_copy_source"][0] == 100  # the source against itself, so it is in no mean
    assert result.scores["psnr_copy_source"] == pytest.approx(np.mean(rows["psnr_copy_source"][1:]))


def means_of_images(image: torch.Tensor) -> torch.Tensor:
    """Stands in for an embedding and for Inception."""
    return torch.cat([image.mean(dim=(2, 3)), image.std(dim=(2, 3))], dim=1)


def bright_points(image: torch.Tensor) -> torch.Tensor:
    """Stands in for a detector of landmarks, without the 3DMM's jumps from one contour to the next."""
    return image.mean(dim=1).flatten(1)[:, : 68 * 2].reshape(-1, 68, 2)


def scorers() -> Scorers:
    torch.manual_seed(0)
    lpips = Lpips().eval().requires_grad_(False)
    return Scorers(bright_points, means_of_images, lpips, means_of_images)


def test_networks_score_alike_in_any_batch(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    results = [
        evaluate(
            *(evaluator(model, tiny_clips, size, scorers=scorers()), RECONSTRUCT, tmp_path / str(size)),
            length=length,
        )
        for size, length in ((1, 128), (4, 4), (6, 5))
    ]
    known = {key for key, value in results[0].scores.items() if math.isfinite(value)}
    assert {score.removesuffix("_copy_source") for score in set(SCORES) - known} == {"ms_ssim"}  # 32 px
    for result in results[1:]:
        assert dict(result.scores) == pytest.approx(dict(results[0].scores), abs=1e-5, nan_ok=True)
    distances = [fid_of_parts(tmp_path / str(size)) for size in (1, 4, 6)]
    assert distances[1] == pytest.approx(distances[0], abs=1e-5)
    assert distances[2] == pytest.approx(distances[0], abs=1e-5)
    for size in (1, 4, 6):
        rows = pq.read_table(tmp_path / str(size) / FEATURES).to_pylist()
        assert sum(len(row["target"]) for row in rows) == 5 * 6 * 4  # five frames: the source is not counted


def test_flicker_against_a_naive_loop(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluate(evaluator(model, tiny_clips, 2), RECONSTRUCT, tmp_path / "out")
    store, runner = ClipStore(tiny_clips), ModelRunner(model)
    frames = store.frames(DAN, range(6))
    batches = list(runner.reconstruct(runner.prepare(frames[0]), frames))
    prediction = torch.cat([batch.result.prediction for batch in batches]).double()
    target = torch.cat([batch.driving for batch in batches]).double()
    expected = [
        ((prediction[t] - prediction[t - 1]) - (target[t] - target[t - 1])).abs().mean().item()
        for t in range(1, 6)
    ]
    still = [(target[t] - target[t - 1]).abs().mean().item() for t in range(1, 6)]
    assert result.scores["flicker"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert result.scores["flicker_copy_source"] == pytest.approx(np.mean(still), abs=1e-9)


def test_an_animation_is_scored_on_identity_alone(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluate(evaluator(model, tiny_clips, scorers=scorers()), ANIMATE, tmp_path / "out")
    known = {key for key, value in result.scores.items() if math.isfinite(value)}
    assert known == {"csim", "csim_copy_source"}
    assert result.scores["csim_copy_source"] == pytest.approx(1)
    rows = result.frames
    assert rows["mode"] == ["animation"] * 6
    assert rows["source_id"] == [ANN] * 6
    assert result.scores["csim"] == pytest.approx(np.mean(rows["csim"]))  # frame 0 counts: it is no copy


def test_a_swap_and_its_mask(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    mask = FaceMask(FaceParser().eval(), (1, 2), hard=False)
    job = EvaluationJob("swap", ANN, BEN)
    result = evaluate(evaluator(model, tiny_clips, mask=mask), job, tmp_path / "out", frames=2)
    assert not result.frames
    with Image.open(result.folder / STRIP) as strip:
        assert strip.width > 12 * 32  # the mask is a panel more


@pytest.mark.parametrize("window", [128, 4])
def test_meshes_of_a_clip(model: Safa, tiny_clips: Path, tmp_path: Path, window: int) -> None:
    config = MeshConfig(export=("obj", "ply"), export_frames=2)
    job = EvaluationJob("mesh", DAN, DAN)
    result = evaluate(evaluator(model, tiny_clips, mesh=config), job, tmp_path / "out", length=window)
    assert result.n_frames == 6
    names = sorted(path.name for path in result.folder.iterdir())
    exported = [f"frame{number:06d}.{suffix}" for number in (1, 4) for suffix in ("mtl", "obj", "ply", "png")]
    assert names == sorted([VIDEO, STRIP, POSTER, MESHES, *exported])
    assert pq.read_table(result.folder / MESHES)["frame"].to_pylist() == list(range(6))


@pytest.mark.parametrize("window", [128, 4])
def test_the_video_is_as_long_as_the_clip(model: Safa, tiny_clips: Path, tmp_path: Path, window: int) -> None:
    visuals = {"panel": 32, "strip_frames": 3, "crf": 4}
    stages = evaluator(model, tiny_clips, visuals=visuals)
    whole = evaluate(stages, ANIMATE, tmp_path / "whole").folder
    folder = evaluate(stages, ANIMATE, tmp_path / "out", length=window).folder
    video = folder / VIDEO
    frames = list(read_frames(video))
    assert len(frames) == 6
    for frame, expected in zip(frames, read_frames(whole / VIDEO), strict=True):
        assert np.abs(frame.astype(int) - expected).mean() < 2  # each segment was encoded by itself
    assert (folder / POSTER).read_bytes() == (whole / POSTER).read_bytes()
    assert (folder / STRIP).read_bytes() == (whole / STRIP).read_bytes()
    assert not list((tmp_path / "out" / "segments").rglob("*.mp4"))
    info = probe(video)
    assert info.fps == 25
    assert info.width > 3 * 32
    with Image.open(folder / STRIP) as strip:
        assert strip.width > 11 * 32
        assert strip.height > 3 * 32


def test_an_animation_has_no_target(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluate(evaluator(model, tiny_clips), ANIMATE, tmp_path / "out")
    assert not any(math.isfinite(value) for value in result.scores.values())
    assert not result.frames


@pytest.mark.parametrize("adapt_scale", [False, True])
def test_a_best_frame_is_taken_as_the_reference(
    model: Safa, tiny_clips: Path, tmp_path: Path, adapt_scale: bool
) -> None:
    transfer = TransferConfig(best_frame=True, adapt_scale=adapt_scale)
    clips = evaluator(model, tiny_clips, animation=AnimationConfig(transfer=transfer))
    assert evaluate(clips, ANIMATE, tmp_path / "out").n_frames == 6


def test_motion_is_measured_from_the_first_frame_with_a_face(
    clip_row: Callable[..., dict[str, Any]],
    write_clips: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    late, never = clip_row("dan", "test"), clip_row("eve", "test", faces=False)
    late["landmarks"] = [
        [math.nan] * 136 if number < 2 else points for number, points in enumerate(late["landmarks"])
    ]
    store = ClipStore(write_clips(tmp_path / "clips", [late, never]))
    config = EvaluateConfig(
        model=tmp_path,
        clips=tmp_path,
        out=tmp_path,
        animation=AnimationConfig(transfer=TransferConfig(mode="relative")),
    )
    reader = FrameReader(store, config)

    def reference(driving: str, n_frames: int = 6) -> Any:
        job = EvaluationJob("animation", never["clip_id"], driving)
        (window,) = windows_of(job, 0, n_frames, 128, shown=False)
        return reader(window).reference

    caplog.set_level("INFO")
    assert (reference(late["clip_id"]) == store.frames(late["clip_id"], [2])[0]).all()
    assert "motion is measured from frame 2, the first with a face" in caplog.text
    # Nobody has looked for faces here.
    assert (reference(never["clip_id"]) == store.frames(never["clip_id"], [0])[0]).all()
    with pytest.raises(ClipError, match="its first 2 frames show no face"):
        reference(late["clip_id"], 2)


def test_only_the_first_frames(model: Safa, tiny_clips: Path, tmp_path: Path) -> None:
    result = evaluate(evaluator(model, tiny_clips), RECONSTRUCT, tmp_path / "out", frames=3)
    assert result.n_frames == 3
    assert len(list(read_frames(result.folder / VIDEO))) == 3


def test_a_clip_without_a_face_has_no_landmark_error(
    model: Safa, clip_row: Callable[..., dict[str, Any]], write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    clips = write_clips(tmp_path / "clips", [clip_row("dan", "test", faces=False)])
    result = evaluate(evaluator(model, clips), RECONSTRUCT, tmp_path / "out")
    assert math.isnan(result.scores["landmark_nme"])
    assert math.isfinite(result.scores["psnr"])


def test_a_damaged_frame_refuses_the_clip_and_leaves_nothing(
    model: Safa, clip_row: Callable[..., dict[str, Any]], write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    row = clip_row("dan", "test")
    row["frames"][4] = row["frames"][4][:60]
    clips = write_clips(tmp_path / "clips", [row])
    with pytest.raises(ClipError, match="frame 4: not a readable picture") as refusal:
        evaluate(evaluator(model, clips), RECONSTRUCT, tmp_path / "out")
    assert refusal.value.code == FailureCode.DECODE
    assert not (tmp_path / "out").exists()


def test_a_long_clip_is_never_whole_in_memory(
    model: Safa, clip_row: Callable[..., dict[str, Any]], write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    """A window reads its own frames, one more for flicker, and the source's."""
    row = clip_row("dan", "test")
    name = "dan#v#000000#000060"
    long = row | {"clip_id": name, "end": 60}
    long |= {column: list(row[column]) * 10 for column in ("frames", "landmarks", "face_score")}
    store = WatchedStore(write_clips(tmp_path / "clips", [long]))
    config = EvaluateConfig(model=Path("m"), clips=Path("c"), out=Path("o"), visuals=VisualsConfig(panel=32))
    clips = AllStages(ModelRunner(model, batch_size=4), store, config)
    job = EvaluationJob("reconstruction", name, name)
    windows = list(windows_of(job, 0, 60, 16, shown=False))
    assert [clips(window).scores.shape[0] for window in windows] == [16, 16, 16, 12]  # type: ignore[union-attr]
    assert store.most_frames == 1
    assert store.landmarks_calls == 0
    assert store.seen == [0, *range(16), 0, *range(15, 32), 0, *range(31, 48), 0, *range(47, 60)]


class WatchedStore(ClipStore):
    """Counts what it is asked for at once."""

    most_frames = landmarks_calls = 0

    @property
    def seen(self) -> list[int]:
        return self.__dict__.setdefault("_seen", [])

    def frames(self, clip: int | str, indices: Any) -> Any:
        self.most_frames = max(self.most_frames, len(indices))
        self.seen.extend(indices)
        return super().frames(clip, indices)

    def landmarks(self, clip: int | str, indices: Any = None) -> Any:
        self.landmarks_calls += 1
        return super().landmarks(clip, indices)
