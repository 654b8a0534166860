"""The loop on one process: what it writes, how it resumes, and what it refuses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from safa.checkpoint.native import latest_state, load_model, read_state
from safa.config.training import TrainConfig
from safa.errors import UserError
from safa.training import metrics_logger
from safa.training.context import LocalContext
from safa.training.loop import InterruptedRun, fit
from safa.training.metrics_logger import read_metrics
from safa.weights import read_tensors

MakeConfig = Callable[..., TrainConfig]
STAGES = ["head", "full"]


class StopAfter(LocalContext):
    """Asks to stop once so many steps have been taken."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def stop_requested(self) -> bool:
        self._left -= 1
        return self._left <= 0


def _losses(config: TrainConfig) -> list[dict[str, float]]:
    rows = read_metrics(config.folder / "metrics.jsonl")
    return [row["losses"] for row in rows if row["kind"] == "train"]


def _weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    return read_tensors(config.folder / "model" / "weights.safetensors")


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", STAGES)
def test_a_run_writes_states_metrics_curves_and_a_model(make_config: MakeConfig, kind: str) -> None:
    config = make_config(kind, length=5)
    assert fit(config, LocalContext()).step == 5
    states = {path.name for path in (config.folder / "checkpoints").glob("step-*")}
    assert states >= {"step-00000004", "step-00000005"}, "every second step and the last; two kept"
    assert states <= {"step-00000002", "step-00000004", "step-00000005"}, "besides those the best one"
    rows = read_metrics(config.folder / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if row["kind"] == "validate"] == [2, 4, 5]
    wanted = {"landmark_nme"} if kind == "head" else {"landmark_nme", "psnr", "ssim", "l1"}
    assert set(rows[-1]["scores"]) == wanted | {f"{name}_copy_source" for name in wanted}
    for picture in ("curves.png", "strip.png"):
        assert (config.folder / picture).stat().st_size > 1000
    assert list((config.folder / "tensorboard").iterdir())
    assert (config.folder / "model" / "model.json").is_file()


def test_curves_are_drawn_while_training_continues(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    monkeypatch.setattr(metrics_logger, "CURVES_EVERY", 0.0)
    monkeypatch.setattr(
        metrics_logger, "draw_curves", lambda *_: threads.append(threading.current_thread().name)
    )
    fit(make_config("head", length=4), LocalContext())
    assert len(threads) >= 2
    assert set(threads) == {"checkpoint"}  # the one that writes states


# 4: a row is a mean over steps before and after the stop. Each stage and each value once; the rest is a soak.
@pytest.mark.parametrize(
    ("kind", "log_every"),
    [
        ("head", 4),
        ("full", 1),
        *(pytest.param(*each, marks=pytest.mark.soak) for each in (("head", 1), ("full", 4))),
    ],
)
def test_stopped_and_resumed_equals_straight_through(
    make_config: MakeConfig, kind: str, log_every: int
) -> None:
    straight = make_config(kind, {"name": "straight", "log_every": log_every}, length=6)
    fit(straight, LocalContext())
    resumed = make_config(kind, {"name": "resumed", "log_every": log_every}, length=6)
    with pytest.raises(InterruptedRun):
        fit(resumed, StopAfter(3))
    assert latest_state(resumed.folder / "checkpoints") == resumed.folder / "checkpoints" / "step-00000003"
    assert not (resumed.folder / "model").exists()
    torch.manual_seed(1234)  # whatever else the process has drawn in between
    fit(resumed, LocalContext())
    assert _same(_weights(straight), _weights(resumed))
    assert _losses(straight) == _losses(resumed)


def test_a_request_to_save_saves_the_step_at_hand_and_training_goes_to_its_end(
    make_config: MakeConfig,
) -> None:
    class SaveAtThird(LocalContext):
        looks = 0

        def save_requested(self) -> bool:
            self.looks += 1
            return self.looks == 3

    config = make_config("head", {"checkpoint.every": 100, "validate_on": None}, length=5)
    assert fit(config, SaveAtThird()).step == 5
    states = {path.name for path in (config.folder / "checkpoints").glob("step-*")}
    assert states == {"step-00000003", "step-00000005"}


def test_a_damaged_newest_state_costs_its_steps_alone(make_config: MakeConfig) -> None:
    straight = make_config("head", {"name": "straight"}, length=6)
    fit(straight, LocalContext())
    config = make_config("head", {"name": "damaged", "checkpoint.keep": 2}, length=6)
    with pytest.raises(InterruptedRun):
        fit(config, StopAfter(4))
    states = config.folder / "checkpoints"
    os.truncate(states / "step-00000004" / "networks.safetensors", 1000)
    fit(config, LocalContext())
    assert _same(_weights(straight), _weights(config))
    assert _losses(straight) == _losses(config)
    assert {path.name for path in states.glob("step-*")} >= {"step-00000004", "step-00000006"}
    assert [path.name for path in states.glob("damaged-*")] == ["damaged-step-00000004"]


def test_the_head_stage_learns_the_landmarks(make_config: MakeConfig) -> None:
    config = make_config("head", {"stage.lr": 5e-3, "validate_on": None, "checkpoint.every": 60}, length=60)
    fit(config, LocalContext())
    losses = [row["landmark"] for row in _losses(config)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_the_full_stage_learns_to_reconstruct(make_config: MakeConfig) -> None:
    rate = dict.fromkeys(("generator", "kp_detector", "tdmm", "discriminator"), 2e-3)
    config = make_config("full", {"stage.lr": rate, "validate_on": None, "checkpoint.every": 60}, length=60)
    fit(config, LocalContext())
    losses = [row["perceptual"] for row in _losses(config)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_full_starts_from_the_head_stage(make_config: MakeConfig) -> None:
    head = make_config("head", length=3)
    fit(head, LocalContext())
    # A learning rate of next to nothing: what is trained stays where it started.
    rate = dict.fromkeys(("generator", "kp_detector", "tdmm", "discriminator"), 1e-12)
    full = make_config("full", {"stage.init": str(head.folder), "stage.lr": rate}, length=1)
    fit(full, LocalContext())
    before, after = _weights(head), _weights(full)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)


def test_batchnorm_of_the_3dmm_stays_as_stage_1_left_it(make_config: MakeConfig) -> None:
    head = make_config("head", length=3)
    fit(head, LocalContext())
    full = make_config("full", {"stage.init": str(head.folder)}, length=4)
    fit(full, LocalContext())
    before, after = _weights(head), _weights(full)
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    assert len(statistics) > 50
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not torch.equal(before["tdmm.encoder.fc.weight"], after["tdmm.encoder.fc.weight"])


def test_the_ema_is_what_is_validated_and_saved(make_config: MakeConfig) -> None:
    config = make_config("full", {"stage.ema_decay": 0.9})
    fit(config, LocalContext())
    stored = read_state(config.folder / "checkpoints" / "step-00000004")
    assert stored.ema is not None
    assert _same(_weights(config), dict(stored.ema))
    assert not torch.equal(stored.ema["generator.final.weight"], stored.networks["generator"]["final.weight"])


def test_model_folder_is_all_that_inference_needs(
    make_config: MakeConfig, head_file: Path, tmp_path: Path
) -> None:
    config = make_config("full", length=2)
    fit(config, LocalContext())
    moved = config.folder.rename(tmp_path / "elsewhere")
    model, info = load_model(moved / "model")
    assert (info.stage, info.step) == ("full", 2)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        out = model.reenact(model.prepare_source(image), model.analyse(image)).prediction
    assert out.shape == image.shape
    from_state, _ = load_model(moved / "checkpoints")
    assert _same(model.state_dict(), from_state.state_dict())


@pytest.mark.parametrize("kind", STAGES)
def test_every_step_setting_trains(make_config: MakeConfig, kind: str) -> None:
    settings = {"accumulate": 3, "bf16": True, "channels_last": True, "clip_norm": 0.1, "fused_adam": False}
    plain = make_config(kind, {"name": "plain", "validate_on": None}, length=2)
    elsewhere = {"compile", "activation_checkpoints"}  # which have tests of their own
    assert settings.keys() | elsewhere == vars(plain.step).keys(), "a setting without a case"
    samples = fit(plain, LocalContext()).samples
    for name, value in settings.items():
        changed = make_config(kind, {"name": name, "validate_on": None, f"step.{name}": value}, length=2)
        assert fit(changed, LocalContext()).samples == samples * changed.step.accumulate
        last, last_plain = _losses(changed)[-1], _losses(plain)[-1]
        assert sum(last.values()) == pytest.approx(sum(last_plain.values()), rel=0.3)
        if name not in ("fused_adam", "channels_last"):  # these may only round differently
            assert last != last_plain, "the setting is read"


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile looks at everything
@pytest.mark.parametrize("kind", STAGES)
def test_compiled_networks_take_the_same_steps(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Every network is traced whole, without a break; the code that a compiler would make is left out."""
    traced: list[str] = []
    compile_with = torch.compile

    def trace(call: Callable[..., Any], **settings: Any) -> Any:
        traced.append(type(call.__self__).__name__)  # type: ignore[attr-defined]
        return compile_with(call, backend="eager", fullgraph=True, **settings)

    monkeypatch.setattr(torch, "compile", trace)
    plain = make_config(kind, {"name": "plain", "validate_on": None}, length=2)
    changed = make_config(kind, {"name": "compiled", "validate_on": None, "step.compile": True}, length=2)
    fit(plain, LocalContext())
    assert not traced
    fit(changed, LocalContext())
    full = {"KeypointDetector", "Tdmm", "Generator", "MultiScaleDiscriminator"}
    assert set(traced) == (full if kind == "full" else {"Tdmm"})
    for a, b in zip(_losses(plain), _losses(changed), strict=True):
        assert b == pytest.approx(a, rel=1e-3)


def test_learning_rate_falls_at_the_milestone(make_config: MakeConfig) -> None:
    config = make_config("head", {"schedule.milestones": [2, 3]}, length=4)
    fit(config, LocalContext())
    rows = read_metrics(config.folder / "metrics.jsonl")
    assert [row["lr_factor"] for row in rows if row["kind"] == "train"] == pytest.approx([1, 1, 0.1, 0.01])


@pytest.mark.parametrize("kind", STAGES)
def test_a_loss_that_is_not_finite_stops_the_run(make_config: MakeConfig, kind: str) -> None:
    config = make_config(kind, length=3)
    fit(make_config(kind, length=2), LocalContext())
    state = config.folder / "checkpoints" / "step-00000002"
    _poison(state, {"head": "tdmm/encoder.model.features.18.1.weight", "full": "generator/final.bias"}[kind])
    with pytest.raises(
        UserError, match=r"not finite in step 3 \(.*nan.*; clips \w+#v#000000#000006"
    ) as error:
        fit(config, LocalContext())
    assert "\n" not in str(error.value)
    assert read_state(config.folder / "failed" / "step-00000002").progress.step == 2
    assert latest_state(config.folder / "checkpoints") == state, (
        "not among the states that a run resumes from"
    )


@pytest.mark.parametrize("kind", STAGES)
def test_losses_are_checked_once_a_step(make_config: MakeConfig, kind: str) -> None:
    """However many passes it has: each check would let the host wait for the device."""

    class Counting(LocalContext):
        sums = 0

        def sum(self, values: torch.Tensor) -> torch.Tensor:
            self.sums += 1
            return values

    changes = {"step.accumulate": 2, "validate_on": None, "log_every": 100, "checkpoint.every": 100}
    context = Counting()
    fit(make_config(kind, changes, length=3), context)
    assert context.sums == 3 + 2, "one a step, one row of metrics, and one before the end"


def _poison(folder: Path, name: str) -> None:
    from safetensors.torch import save_file

    tensors = read_tensors(folder / "networks.safetensors")
    tensors[name].fill_(float("nan"))
    save_file(tensors, folder / "networks.safetensors")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"split": "test"}, "no clips in split 'train'"),
        ({"split": "train", "size": 48}, "is 48x48 px, the model needs 32x32"),
        ({"split": "train", "faces": False}, "no frame of split 'train' has landmarks"),
        ({"split": "train"}, "1 identities in split 'train', data.min_identities is 2"),
    ],
)
def test_data_that_cannot_be_trained_on(
    make_config: MakeConfig,
    tmp_path: Path,
    clip_row: Callable[..., dict[str, Any]],
    write_clips: Callable[..., Path],
    row: dict[str, Any],
    message: str,
) -> None:
    folder = write_clips(tmp_path / "clips", [clip_row("ann", **row)])
    config = make_config("head", {"data.clips": str(folder), "validate_on": None})
    with pytest.raises(UserError, match=message):
        fit(config, LocalContext())
    assert not config.folder.exists()


def test_people_to_look_at_that_nobody_held_out(
    make_config: MakeConfig,
    tmp_path: Path,
    clip_row: Callable[..., dict[str, Any]],
    write_clips: Callable[..., Path],
) -> None:
    folder = write_clips(tmp_path / "clips", [clip_row("ann", "train"), clip_row("ben", "train")])
    with pytest.raises(UserError, match=r"no clips in split 'test'.*source\.identity=null.*validate_on=null"):
        fit(make_config("head", {"data.clips": str(folder)}), LocalContext())


def test_weights_of_other_sizes_are_refused(make_config: MakeConfig) -> None:
    head = make_config("head", length=1)
    fit(head, LocalContext())
    full = make_config("full", {"stage.init": str(head.folder), "model.head.encoder_width": 0.2})
    with pytest.raises(UserError, match=r"weights do not fit \(\d+ of another shape: encoder\.model"):
        fit(full, LocalContext())
