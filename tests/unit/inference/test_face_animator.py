"""``FaceAnimator``: what the model sees of photos and videos, and which frame motion is measured from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safa.config import ModelConfig, parse_settings
from safa.errors import UserError
from safa.head.assets import HeadAssets
from safa.inference.face_animator import READ_AHEAD, FaceAnimator
from safa.inference.face_crop import crop_face
from safa.models.safa import Safa
from safa.visualize.images import RgbImage

SIZE = 32


class RedSquareTracker:
    """Takes red squares for faces; a frame without red shows none."""

    name = "red squares"

    def crop_boxes(self, frames: Iterable[RgbImage], choice: object = None) -> Iterator[np.ndarray]:
        for frame in frames:
            boxes = self.faces(frame)
            yield boxes[0] if boxes else np.full(3, np.nan)

    def faces(self, frame: RgbImage) -> list[np.ndarray]:
        rows, columns = np.nonzero(frame[..., 0] > 200)
        if not len(rows):
            return []
        return [np.array([columns.mean() + 0.5, rows.mean() + 0.5, 2.0 * (np.ptp(columns) + 1)])]

    def landmarks(self, faces: Sequence[RgbImage]) -> None:
        return None


def _frame(x: int, *, face: bool = True) -> RgbImage:
    frame = np.random.default_rng(x).integers(0, 120, (60, 90, 3)).astype(np.uint8)
    if face:
        frame[20:36, x : x + 16] = (255, 40, 40)
    return frame


@pytest.fixture
def animator(tiny_model: dict[str, Any], toy_head: HeadAssets) -> FaceAnimator:
    torch.manual_seed(0)
    model = Safa(parse_settings(tiny_model, ModelConfig, "test"), toy_head)
    torch.nn.init.normal_(model.tdmm.encoder.fc.weight, std=0.05)  # at zero, all heads are the same
    return FaceAnimator(model, torch.device("cpu"), batch_size=3, face_tracker=RedSquareTracker())


@pytest.fixture
def references(animator: FaceAnimator, monkeypatch: pytest.MonkeyPatch) -> list[RgbImage | None]:
    """Collects every reference that the runner gets."""
    seen: list[RgbImage | None] = []
    plain = animator.runner.animate

    def recording(source: Any, driving: Any, transfer: Any, reference: Any = None) -> Any:
        seen.append(reference)
        return plain(source, driving, transfer, reference)

    monkeypatch.setattr(animator.runner, "animate", recording)
    return seen


def test_the_model_sees_the_face_wherever_it_is(animator: FaceAnimator) -> None:
    video = animator.animate(_frame(8), [_frame(10 + n) for n in range(7)])
    rendered = list(video.rendered_frames)
    assert (video.count, len(rendered)) == (7, 7)
    for frame in rendered:
        rows, columns = np.nonzero(frame.driving[..., 0] > 200)
        assert abs(rows.mean() - 15.5) < 2
        assert abs(columns.mean() - 15.5) < 4  # the crop is steady, the face moves in it


def test_without_crop_the_centre_square_is_used(animator: FaceAnimator) -> None:
    frames = [_frame(10 + n) for n in range(3)]
    rendered = list(animator.animate(_frame(8), frames, crop=False).rendered_frames)
    assert (rendered[1].driving == crop_face(frames[1], np.array([45.0, 30.0, 60.0]), SIZE)).all()


def test_motion_is_measured_from_the_chosen_frame(
    animator: FaceAnimator, references: list[RgbImage | None]
) -> None:
    frames = [_frame(10 + n) for n in range(4)]
    rendered = list(animator.animate(_frame(8), frames, relative=True, best_frame=2).rendered_frames)
    assert references[0] is not None
    assert (references[0] == rendered[2].driving).all()
    list(animator.animate(_frame(8), frames, relative=True))
    assert references[1] is None
    with pytest.raises(UserError, match="no frame 9"):
        animator.animate(_frame(8), frames, relative=True, best_frame=9)


def test_the_most_alike_frame_is_found(animator: FaceAnimator, references: list[RgbImage | None]) -> None:
    frames = [np.random.default_rng(n).integers(0, 255, (40, 40, 3)).astype(np.uint8) for n in range(5)]
    list(animator.animate(frames[3], frames, relative=True, best_frame="find", crop=False))
    assert references[0] is not None
    assert (references[0] == crop_face(frames[3], np.array([20.0, 20.0, 40.0]), SIZE)).all()


def test_frames_are_computed_as_they_are_asked_for(animator: FaceAnimator) -> None:
    """A long video never sits in memory: a batch and what is read ahead, beyond what was asked for."""
    read = 0

    def frames() -> Iterator[RgbImage]:
        nonlocal read
        for n in range(1000):
            read += 1
            yield _frame(10 + n % 5)

    video = iter(animator.animate(_frame(8), frames()))
    for _ in range(4):
        assert next(video).shape == (SIZE, SIZE, 3)
    assert read <= 4 + animator.batch_size + (animator.batch_size + READ_AHEAD) + 3


def test_frames_without_a_face_pass_a_swap_untouched(animator: FaceAnimator) -> None:
    frames = [_frame(10 + n, face=n not in (1, 5)) for n in range(7)]
    rendered = list(animator.swap(_frame(8), frames).rendered_frames)
    assert [frame.changed for frame in rendered] == [n not in (1, 5) for n in range(7)]
    assert (rendered[5].image == frames[5]).all()
    assert (rendered[2].image != frames[2]).any()
    assert (rendered[2].image[:, 60:] == frames[2][:, 60:]).all()


def test_a_video_is_reconstructed_from_its_first_frame(animator: FaceAnimator) -> None:
    assert len(list(animator.reconstruct([_frame(10 + n) for n in range(5)]))) == 5


def test_inputs_without_a_face_are_refused(animator: FaceAnimator) -> None:
    blank = _frame(8, face=False)
    with pytest.raises(UserError, match="no face found"):
        animator.animate(blank, [_frame(9)])
    with pytest.raises(UserError, match="no face found in any frame"):
        animator.animate(_frame(8), [blank, blank])
    with pytest.raises(UserError, match="no best frame"):
        animator.animate(_frame(8), iter([_frame(9)]), relative=True, best_frame="find")


def test_a_mesh_and_its_landmarks_lie_on_the_photo(animator: FaceAnimator, tmp_path: Path) -> None:
    Image.fromarray(_frame(50)).save(tmp_path / "a.png")
    head = animator.mesh(tmp_path / "a.png")
    assert head.mesh.vertices.shape == (98, 3)
    assert np.abs(head.landmarks.mean(0) - head.crop_box[:2]).max() < head.crop_box[2]


def test_motion_is_measured_from_the_first_frame_with_a_face(
    animator: FaceAnimator, references: list[RgbImage | None]
) -> None:
    frames = [_frame(10 + n, face=n > 2) for n in range(6)]
    video = animator.animate(_frame(8), frames, relative=True)
    assert "frames: motion is measured from frame 3, the first with a face" in video.notes
    rendered = list(video.rendered_frames)
    assert references[0] is not None
    assert (references[0] == rendered[3].driving).all()
    assert "measured" not in " ".join(animator.animate(_frame(8), frames).notes)
    with pytest.raises(UserError, match=r"frame 1 shows no face\. Frame 3 is the first that shows one"):
        animator.animate(_frame(8), frames, relative=True, best_frame=1)


def test_a_face_that_is_not_there_cannot_be_chosen(animator: FaceAnimator) -> None:
    with pytest.raises(UserError, match=r"there is no face 2, only 1; tried: the face detector red squares"):
        animator.animate(_frame(8), [_frame(9)], face=2)
    for wrong, line in ((0, "face: must be 1 or more, not 0"), ((1.0,), r"face: \(1.0,\) is no place")):
        with pytest.raises(UserError, match=line):
            animator.animate(_frame(8), [_frame(9)], face=wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"driving_face=1 and crop=False exclude each other"):
        animator.swap(_frame(8), [_frame(9)], driving_face=1, crop=False)


def test_a_place_outside_of_the_picture_is_refused(animator: FaceAnimator) -> None:
    """The pictures are 90 x 60 px."""
    frames = [_frame(10 + n) for n in range(3)]
    assert len(list(animator.animate(_frame(8), frames, face=(89, 59), driving_face=(0, 0)))) == 3
    for options in ({"face": (90, 5)}, {"face": (5, 60)}, {"driving_face": (99.5, 5)}):
        with pytest.raises(UserError, match=rf"^{next(iter(options))}: .* of the picture, 90 x 60 px"):
            animator.animate(_frame(8), frames, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="outside of the picture"):
        animator.meshes(_frame(8), face=(5, 60))
    with pytest.raises(UserError, match=r"^driving_face: .* outside of the picture"):
        list(animator.animate(_frame(8), iter(frames), driving_face=(90, 5)))


def test_a_stream_without_a_face_says_so(animator: FaceAnimator) -> None:
    blank = _frame(8, face=False)
    for video in (
        animator.animate(_frame(8), iter([blank] * 3)),
        animator.swap(_frame(8), iter([blank] * 3)),
    ):
        with pytest.raises(
            UserError, match="no face found in any frame; tried: the face detector red squares"
        ):
            list(video)


def test_frames_may_differ_in_size(animator: FaceAnimator, tmp_path: Path) -> None:
    """Each size is a scene of its own, in whose px its crop boxes are."""
    large = np.repeat(np.repeat(_frame(40), 3, axis=0), 3, axis=1)
    frames = [_frame(10), _frame(11), large, large]
    seen = [frame.driving for frame in animator.animate(_frame(8), frames).rendered_frames]
    for picture in seen:
        rows, columns = np.nonzero(picture[..., 0] > 200)
        assert abs(rows.mean() - 15.5) < 2
        assert abs(columns.mean() - 15.5) < 2
    animator.animate(_frame(8), frames, side_by_side=True).save(tmp_path / "all.mp4")
    with pytest.raises(UserError, match="frame 2: is 270 x 180 px, but the first is 90 x 60 px"):
        animator.swap(_frame(8), frames).save(tmp_path / "swapped.mp4")
    assert not (tmp_path / "swapped.mp4").exists()


def test_a_scene_cut_moves_the_crop_at_once(animator: FaceAnimator) -> None:
    """Two scenes with the face in other places, of other brightness, as a camera that looks elsewhere."""
    dark, bright = _frame(5), np.maximum(_frame(70), 150)
    bright[20:36, 70:86] = (255, 40, 40)
    bright[..., 0] = np.where(bright[..., 0] == 255, 255, 150)
    frames = [dark] * 4 + [bright] * 4
    for picture in [frame.driving for frame in animator.animate(_frame(8), frames).rendered_frames]:
        columns = np.nonzero(picture[..., 0] > 200)[1]
        assert abs(columns.mean() - 15.5) < 1


def test_the_source_beside_a_result_is_as_sharp_as_the_photo(model: Safa) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    animator = FaceAnimator(model, torch.device("cpu"))
    (frame,) = animator.animate(photo, [photo], crop=False, size=96, side_by_side=True)
    assert frame.shape[0] == 96
    np.testing.assert_array_equal(frame[:, :96], photo)


def test_no_input_is_written_over(animator: FaceAnimator, tmp_path: Path) -> None:
    photo, folder = tmp_path / "me.png", tmp_path / "frames"
    folder.mkdir()
    for path in (photo, folder / "1.png", tmp_path / "other.png"):
        Image.fromarray(_frame(8)).save(path)
    before = photo.read_bytes()
    for driving in (str(folder), [photo, _frame(9)], photo):
        for result in (animator.animate(photo, driving), animator.swap(_frame(8), [photo, _frame(9)])):
            with pytest.raises(UserError, match=r"me\.png: is an input, too"):
                result.save(photo)
    with pytest.raises(UserError, match=r"1\.png: is an input, too"):
        animator.animate(_frame(8), folder).save(str(folder / "1.png"))
    assert photo.read_bytes() == before
    animator.animate(photo, folder).save(tmp_path / "other.png")


def test_a_head_is_not_saved_where_a_file_is(animator: FaceAnimator, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    with pytest.raises(UserError, match=r"a file is in the place of a folder"):
        animator.meshes(_frame(8))[0].save(tmp_path / "text")
