"""Face swap: the mask, and what it keeps of the driving frame."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from safa.config.inference import FACE_CLASS_NAMES, WHOLE_FACE, SwapConfig
from safa.data.clip_store import ClipStore
from safa.errors import UserError
from safa.inference.model_runner import ModelRunner
from safa.inference.swap_mask import FaceMask, HeadOutline, load_mask
from safa.models.face_parser import FACE_CLASSES, NUM_CLASSES, FaceParser
from safa.models.generator import Blend
from safa.models.safa import FaceState, Safa

ANN, BEN = (f"{person}#v#000000#000006" for person in ("ann", "ben"))


class Everywhere(nn.Module):
    """Stands in for the parser: the whole image is one class."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def probabilities(self, image: Tensor) -> Tensor:
        result = torch.zeros(len(image), NUM_CLASSES, 64, 64)
        result[:, self.number] = 1
        return result


def stand_in(name: str) -> FaceMask:
    parser = Everywhere([*FACE_CLASS_NAMES].index(name))
    return FaceMask(parser, FACE_CLASSES, hard=False)  # type: ignore[arg-type]


def test_names_are_those_of_the_parsers_classes() -> None:
    assert len(FACE_CLASS_NAMES) == NUM_CLASSES
    chosen = tuple(FACE_CLASS_NAMES.index(name) for name in WHOLE_FACE)
    assert chosen == FACE_CLASSES
    assert FACE_CLASS_NAMES[17] == "hair"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parser that knows nothing, in a file; without BatchNorm's counters, as some files are."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "bisenet.pth"
    state = FaceParser().state_dict()
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    return path


@pytest.mark.parametrize("hard", [False, True])
def test_weights_from_a_file(model: Safa, weights: Path, hard: bool) -> None:
    mask = load_mask(SwapConfig(weights=weights, classes=("nose", "hair"), hard=hard), model.tdmm)
    assert isinstance(mask, FaceMask)
    assert mask.classes == (10, 17)
    region = mask.of(torch.rand(1, 3, 32, 32))
    assert region.shape == (1, 1, 512, 512)
    assert 0 <= region.min() <= region.max() <= 1
    assert (set(region.unique().tolist()) <= {0.0, 1.0}) == hard


def test_a_file_of_another_network_is_refused(model: Safa, tmp_path: Path) -> None:
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: weights do not fit") as error:
        load_mask(SwapConfig(weights=tmp_path / "other.pth"), model.tdmm)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("hard", [False, True])
def test_without_weights_the_face_of_the_3d_head_is_the_mask(model: Safa, hard: bool) -> None:
    mask = load_mask(SwapConfig(hard=hard), model.tdmm)
    assert isinstance(mask, HeadOutline)
    image = torch.rand(2, 3, 32, 32)
    region = mask.of(image)
    assert region.shape == (2, 1, 32, 32)
    assert 0 <= region.min() < region.max() <= 1
    assert (set(region.unique().tolist()) <= {0.0, 1.0}) == hard
    side = model.tdmm.render_side(model.tdmm.geometry(model.tdmm.estimate(image).code))
    assert (region <= side.alpha + 1e-6).all()  # never beside the head


def test_classes_need_a_parser() -> None:
    with pytest.raises(ValidationError, match="classes need weights"):
        SwapConfig(classes=("nose",))


@torch.no_grad()
@pytest.mark.parametrize("name", ["skin", "hat"])
@pytest.mark.parametrize("source_shape", [False, True])
def test_a_swap_is_absolute_motion_blended_where_the_mask_is(
    model: Safa, tiny_clips: Path, name: str, source_shape: bool
) -> None:
    """Frame by frame, straight from the parts: driving features outside the mask ("hat" is not swapped)."""
    store, runner = ClipStore(tiny_clips), ModelRunner(model, batch_size=1)
    driving, face = store.frames(BEN, range(3)), runner.prepare(store.frames(ANN, [0])[0])
    batches = runner.swap(face, driving, stand_in(name), source_shape=source_shape)
    swapped = torch.cat([batch.result.prediction for batch in batches])
    for t, frame in enumerate(driving):
        image = runner.to_batch([frame])
        state = model.analyse(image)
        shape = face.face.code.shape if source_shape else state.code.shape
        moved = FaceState(state.keypoints, state.code.replace(shape=shape), state.feature)
        mask = torch.full((1, 1, 64, 64), float(name == "skin"))
        expected = model.reenact(
            face, moved, blend=Blend(image, model.generator.encode(image), mask)
        ).prediction
        torch.testing.assert_close(swapped[t : t + 1], expected, rtol=0, atol=2e-4)


@torch.no_grad()
def test_what_is_swapped_shows(model: Safa, tiny_clips: Path) -> None:
    store, runner = ClipStore(tiny_clips), ModelRunner(model)
    driving, face = store.frames(BEN, range(1)), runner.prepare(store.frames(ANN, [0])[0])
    kept, put = (
        next(runner.swap(face, driving, stand_in(name))).result.prediction for name in ("hat", "skin")
    )
    assert (kept - put).abs().max() > 1e-3


def test_batches_carry_their_mask(model: Safa, tiny_clips: Path) -> None:
    store, runner = ClipStore(tiny_clips), ModelRunner(model, batch_size=2)
    face = runner.prepare(store.frames(ANN, [0])[0])
    masks = [batch.mask for batch in runner.swap(face, store.frames(BEN, range(3)), stand_in("nose"))]
    assert [len(mask) for mask in masks if mask is not None] == [2, 1]
