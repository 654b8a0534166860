"""Every key of training's settings, of both stages, changes what it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines import train as program
from safa.checkpoint.native import read_model_weights
from safa.config import parse_settings
from safa.config.model import ModelConfig
from safa.config.training import TrainConfig
from safa.cores import Machine
from safa.data.augment import GREY_WEIGHTS
from safa.data.clip_store import ClipStore
from safa.data.columns import column_folder, commit_column, write_part
from safa.errors import UserError
from safa.training import dataloader, loop, steps
from safa.training.activation_checkpoints import Checkpointed
from safa.training.context import LocalContext
from safa.training.dataloader import TrainingDataLoader
from safa.training.metrics_logger import MetricsLogger, read_metrics
from safa.training.stages import make_stage
from safa.training.steps import Criteria
from tests.contract.wires.followers import tracking_rows
from tests.contract.wires.table import Row, Table, are, check, differ, keys_of, rises, times, with_key
from tests.contract.wires.world import Recorder, World

STILL = {f"data.jitter.{name}": 0.0 for name in ("brightness", "contrast", "saturation", "hue")}


def settings(world: World, key: str, value: Any, changes: dict[str, Any]) -> TrainConfig:
    """Settings of a run of two steps with one key changed; its branch says which stage."""
    full = "FullStage" in key or changes.get("stage.kind") == "full"
    data: dict[str, Any] = {
        "runs": str(world.root / "runs"),
        "name": "run",
        "model": world.model_settings(),
        "data": {"clips": str(world.clips), "batch_size": 2, "num_repeats": 2, "jitter": {}},
        "stage": {"kind": "full" if full else "head"},
        "schedule": {"unit": "steps", "length": 2},
        "checkpoint": {"every": 100},
        "log_every": 1,
    }
    for name, each in (*changes.items(), (key, value)):
        each = each(world) if callable(each) else each
        data = with_key(data, name, str(each) if isinstance(each, Path) else each)
    return parse_settings(data, TrainConfig, "test")


def _stage(config: TrainConfig) -> Any:
    torch.manual_seed(0)
    return make_stage(config, LocalContext())


def _batch(config: TrainConfig) -> Any:
    return next(TrainingDataLoader(config, LocalContext()).batches(0, 1))


def _annotated(world: World) -> str:
    """The clips with a column of landmarks, which are the stored ones moved by 1.5 px."""

    def make() -> str:
        folder = Path(shutil.copytree(world.clips, world.folder() / "clips"))
        store = ClipStore(folder)
        moved = [
            (
                store.clip_id(number),
                [
                    {"landmarks": points.reshape(len(points), -1) + 1.5}  # (T, 68, 2) -> (T, 136)
                    for points in store.landmark_pieces(number)
                ],
            )
            for number in range(len(store))
        ]
        write_part(column_folder(folder, "moved"), "0" * 32, moved)
        commit_column(column_folder(folder, "moved"), "landmarks")
        return str(folder)

    made: str = world.once("annotated clips", make)
    return made


def landmarks_of_batch(world: World, config: TrainConfig) -> float:
    """How far the landmarks that a worker's store gives are from the stored ones, px."""
    reader = TrainingDataLoader(config, LocalContext())._sampler._reader
    stored = ClipStore(config.data.clips).landmarks(0, [0, 1])
    return round(float(np.nanmean(reader.landmarks(0, [0, 1]) - stored)), 3)


# ---- the loop ---------------------------------------------------------------------------------------------


def _fitted(world: World, config: TrainConfig) -> Path:
    """A whole run, once for each settings; without TensorBoard and curves."""

    class Board(Recorder):
        def __getattr__(self, name: str) -> Any:
            return self

    def fit() -> Path:
        folder = world.folder()
        with (
            patch("torch.utils.tensorboard.SummaryWriter", lambda *_, **__: Board()),
            patch.object(MetricsLogger, "publish", lambda *_, **__: None),
        ):
            loop.fit(config.model_copy(update={"runs": folder}), LocalContext())
        return folder / config.name

    made: Path = world.once(("fit", config.model_dump_json()), fit)
    return made


def _rows_of(world: World, config: TrainConfig, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(_fitted(world, config) / "metrics.jsonl") if row["kind"] == kind]


def name_of_run(world: World, config: TrainConfig) -> tuple[str, str]:
    """Of its folder, and as its model tells it."""
    folder = _fitted(world, config)
    return folder.name, read_model_weights(folder / "model")[1].run


def folder_of_runs(world: World, config: TrainConfig) -> str:
    return config.folder.parent.name


def steps_logged(world: World, config: TrainConfig) -> list[int]:
    return [row["step"] for row in _rows_of(world, config, "train")]


def epochs_logged(world: World, config: TrainConfig) -> float:
    return round(float(_rows_of(world, config, "train")[-1]["epoch"]), 3)


def lr_factors(world: World, config: TrainConfig) -> list[float]:
    return [round(row["lr_factor"], 4) for row in _rows_of(world, config, "train")]


def steps_validated(world: World, config: TrainConfig) -> list[int]:
    return [row["step"] for row in _rows_of(world, config, "validate")]


def states_kept(world: World, config: TrainConfig) -> list[int]:
    folder = _fitted(world, config) / "checkpoints"
    return sorted(int(path.name.split("-")[-1]) for path in folder.iterdir() if path.is_dir())


def states_beyond_the_newest(world: World, config: TrainConfig) -> int:
    return len(states_kept(world, config)) - config.checkpoint.keep


def first_weights(world: World, config: TrainConfig) -> Tensor:
    """Of a run's model after its steps."""
    weights, _ = read_model_weights(_fitted(world, config) / "model")
    return weights["tdmm.encoder.model.features.0.0.weight"]


# ---- data -------------------------------------------------------------------------------------------------


def ids(world: World, config: TrainConfig) -> set[str]:
    try:
        data = TrainingDataLoader(config, LocalContext())
    except UserError as error:
        return {error.what}
    batches = data.batches(0, 8)
    return {name.split("#")[0] for batch in batches for name in batch.clip_ids}


def order_of_samples(world: World, config: TrainConfig) -> list[str]:
    batches = TrainingDataLoader(config, LocalContext()).batches(0, 6)
    return [name.split("#")[0] for batch in batches for name in batch.clip_ids]


def refused(world: World, config: TrainConfig) -> bool:
    try:
        TrainingDataLoader(config, LocalContext())
    except UserError as error:
        return "min_identities" in str(error)
    return False


def length_of_batch(world: World, config: TrainConfig) -> int:
    return len(_batch(config))


def lengths_of_shared_batches(world: World, config: TrainConfig) -> list[int]:
    """Of one worker alone, and of each of two."""
    contexts = [LocalContext(), LocalContext()]
    contexts[1].world_size = 2
    return [len(next(TrainingDataLoader(config, each).batches(0, 1))) for each in contexts]


def samples(world: World, config: TrainConfig) -> tuple[int, int]:
    """In an epoch, and in a step."""
    data = TrainingDataLoader(config, LocalContext())
    return data.samples_per_epoch, data.samples_per_step


def loader_processes(world: World, config: TrainConfig) -> int:
    made = Recorder([])
    with patch.object(dataloader, "DataLoader", made):
        TrainingDataLoader(config, LocalContext()).batches(0, 1)
    count: int = made.first[1]["num_workers"]
    return count


def shards_on_the_node(world: World, config: TrainConfig) -> int:
    """Shards in the node's own folder after a batch."""
    next(TrainingDataLoader(config, LocalContext()).batches(0, 1))
    folder = config.data.stage_to
    count = len(list(folder.glob("*.parquet"))) if folder is not None and folder.exists() else 0
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    return count


def frames_read_again(world: World, config: TrainConfig) -> int:
    """Frames that are decoded when the same batch is asked for a second time."""
    count = [0]
    plain = ClipStore.frames

    def frames(store: ClipStore, clip: str, numbers: Any) -> Any:
        count[0] += len(numbers)
        return plain(store, clip, numbers)

    with patch.object(ClipStore, "frames", frames):
        data = TrainingDataLoader(config, LocalContext())
        next(data.batches(0, 1))
        first = count[0]
        next(data.batches(0, 1))
    return count[0] - first


def image(config: TrainConfig) -> Tensor:
    batch = _batch(config)
    pixels: Tensor = batch.image if hasattr(batch, "image") else batch.source
    return pixels


def _pixels(config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Of each sample: mean grey, spread of the grey, and mean distance of the channels from it."""
    pixels = image(config)
    grey = (pixels * torch.tensor(GREY_WEIGHTS)[:, None, None]).sum(1)
    return grey.mean((1, 2)), grey.std((1, 2)), (pixels - grey[:, None]).abs().mean((1, 2, 3))


def brightness(world: World, config: TrainConfig) -> Any:
    """Mean and spread of the grey change by one factor."""
    mean, spread, _ = _pixels(config)
    return mean, spread / mean


def contrast(world: World, config: TrainConfig) -> Any:
    """The mean grey stays, its spread changes."""
    mean, spread, _ = _pixels(config)
    return spread, mean


def saturation(world: World, config: TrainConfig) -> Any:
    """Grey stays, colours come nearer to it or go away."""
    mean, _, colour = _pixels(config)
    return colour, mean


def hue(world: World, config: TrainConfig) -> Any:
    """Grey stays, colours turn."""
    mean, _, _ = _pixels(config)
    return image(config)[:, 0].mean((1, 2)), mean


def one_stays(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    """The first differs clearly, the second doesn't but for clamping."""
    return bool((a[0] - b[0]).abs().max() > 0.005) and bool((a[1] - b[1]).abs().max() < 0.01)


def mirrored(world: World, config: TrainConfig) -> str:
    plain = image(settings(world, "stage[HeadStage].mirror", 0.0, dict(STILL)))
    pixels = image(config)
    if torch.equal(pixels, plain):
        return "as it is"
    return "mirrored" if torch.equal(pixels, plain.flip(-1)) else "something else"


def moved(world: World, config: TrainConfig) -> list[float]:
    """How far the landmarks are shifted at the middle (px), zoomed (%) and turned (degrees)."""
    plain = _batch(settings(world, "stage[HeadStage].mirror", 0.0, dict(STILL))).landmarks.numpy() - 16
    found = _batch(config).landmarks.numpy() - 16
    largest = np.zeros(3)
    for before, after in zip(plain, found, strict=True):
        ones = np.concatenate([before, np.ones((68, 1))], axis=1)
        solution = np.linalg.lstsq(ones, after, rcond=None)[0]  # (3, 2)
        zoom = np.sqrt(abs(np.linalg.det(solution[:2])))
        turn = np.degrees(np.arctan2(solution[0, 1], solution[0, 0]))
        here = [np.abs(solution[2]).max(), 100 * abs(zoom - 1), abs(turn)]
        largest = np.maximum(largest, here)
    return [round(float(value), 1) for value in largest]


def order_in_pairs(world: World, config: TrainConfig) -> bool:
    """Whether the source comes before the driving frame; the square moves to the right."""
    batch = _batch(config)
    middle = batch.driving_landmarks[..., 0].mean(1) - batch.source_landmarks[..., 0].mean(1)
    assert (middle != 0).any()
    return bool((middle >= 0).all())


def held_out(world: World, config: TrainConfig) -> tuple[int, int, float]:
    """Clips, driving frames of the first one, and its first pixel's sum: whose it is."""
    clips = TrainingDataLoader(config, LocalContext()).held_out
    return len(clips), len(clips[0].driving), round(float(clips[0].source.sum()), 3)


# ---- optimisation -----------------------------------------------------------------------------------------


def optimiser(network: str, name: str) -> Callable[..., Any]:
    def observed(world: World, config: TrainConfig) -> Any:
        stage = world.once(("stage", config.model_dump_json()), lambda: _stage(config))
        return stage.optimisers[network].param_groups[0][name]

    observed.__name__ = f"{name}_of_{network}"
    return observed


def _terms(world: World, config: TrainConfig) -> dict[str, float]:
    """Losses of the first step, once for each settings."""

    def take() -> dict[str, float]:
        stage = _stage(config)
        if config.stage.kind == "head":  # at zero, all heads are the average one
            nn.init.normal_(stage.model.encoder.fc.weight, std=0.005)
        stage.train_mode()
        torch.manual_seed(0)
        terms = stage.step([_batch(config)], torch.Generator().manual_seed(0))
        return {name: float(value) for name, value in terms.items()}

    found: dict[str, float] = world.once(("terms", config.model_dump_json()), take)
    return found


def term(name: str) -> Callable[..., Any]:
    def observed(world: World, config: TrainConfig) -> Any:
        return _terms(world, config).get(name)

    observed.__name__ = name
    return observed


def spread(world: World, config: TrainConfig) -> Any:
    """The term of keypoints, all of which count as too close."""
    with patch("safa.losses.KEYPOINT_DISTANCE", 4.0):
        return _terms(world, config).get("keypoint_spread")


def transform(world: World, config: TrainConfig) -> Any:
    criteria = Criteria(config.stage.losses, config.model)
    return criteria.transform(2, torch.Generator().manual_seed(0), torch.zeros(1))


def affine_noise(world: World, config: TrainConfig) -> float:
    return float((transform(world, config).theta - torch.eye(2, 3)).abs().mean())


def bend(world: World, config: TrainConfig) -> float:
    return float(transform(world, config).control_params.abs().mean())


def control_points(world: World, config: TrainConfig) -> int:
    return int(transform(world, config).control_params.shape[-1])


def perceptual_features(world: World, config: TrainConfig) -> tuple[str, list[str]]:
    """What the perceptual loss compares by, and the file that is read."""

    class Vgg(nn.Module):
        pass

    read: list[Path] = []

    def load(path: Path) -> nn.Module:
        read.append(path)
        return Vgg()

    with patch.object(steps, "load_vgg19", load), patch.object(steps, "load_efficientnet_lite", load):
        features = Criteria(config.stage.losses, config.model).features
    name = getattr(features, "__name__", type(features).__name__)
    return name, [path.name if path else "the package's" for path in read]


def two_passes(world: World, config: TrainConfig) -> tuple[bool, bool]:
    """Whether two looks at one picture agree: in training, and in eval mode."""
    stage = _stage(config)
    tdmm = stage.model.tdmm
    nn.init.normal_(tdmm.encoder.fc.weight, std=0.05)
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    agree = []
    for prepare in (stage.train_mode, stage.model.eval):
        prepare()
        with torch.no_grad():
            agree.append(torch.equal(tdmm.estimate(picture).raw, tdmm.estimate(picture).raw))
    return agree[0], agree[1]


def distance_from_checkpoint(world: World, config: TrainConfig) -> float:
    """Of the 3DMM and of the generator that the stage starts with."""
    weights, _ = read_model_weights(world.checkpoint)
    state = _stage(config).model.state_dict()
    names = ("tdmm.encoder.fc.weight", "generator.final.weight")
    return float(sum((state[name] - weights[name]).abs().mean() for name in names))


def lag_of_average(world: World, config: TrainConfig) -> float | None:
    """How much of a change of the weights the average leaves out, long after the start."""
    stage = _stage(config)
    if stage.ema is None:
        return None
    with torch.no_grad():
        stage.model.generator.final.weight.fill_(1.0)
        stage.ema.model.generator.final.weight.fill_(0.0)
    stage.ema.update(100_000)
    return round(1 - float(stage.ema.model.generator.final.weight.mean()), 4)


def saved_model_is_the_average(world: World, config: TrainConfig) -> bool:
    from safa.checkpoint.native import latest_state, read_state

    folder = _fitted(world, config)
    state = read_state(latest_state(folder / "checkpoints"))
    saved, _ = read_model_weights(folder / "model")
    return not torch.equal(saved["generator.final.weight"], state.networks["generator"]["final.weight"])


# ---- the step ---------------------------------------------------------------------------------------------


def batches_of_a_step(world: World, config: TrainConfig) -> tuple[int, int]:
    """Forward passes of one step of the loop, and samples that it counts."""
    count: list[int] = []
    plain = steps.head_step

    def counted(*arguments: Any) -> Any:
        count.append(1)
        return plain(*arguments)

    with patch("safa.training.stages.head_step", counted):
        folder = _fitted(world, config)
    del folder
    return len(count), TrainingDataLoader(config, LocalContext()).samples_per_step


def gradient_norm(world: World, config: TrainConfig) -> float:
    """After a step, of what the optimiser has used."""
    stage = _stage(config)
    stage.train_mode()
    stage.step([_batch(config)], torch.Generator().manual_seed(0))
    gradients = [p.grad for p in stage.model.parameters() if p.grad is not None]
    return round(float(torch.cat([g.flatten() for g in gradients]).norm()), 5)


def dtype_of_convolutions(world: World, config: TrainConfig) -> Any:
    stage, seen = _stage(config), []
    first = next(m for m in stage.model.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda _, __, result: seen.append(result.dtype))
    stage.train_mode()
    stage.step([_batch(config)], torch.Generator().manual_seed(0))
    return seen[0]


def memory_layouts(world: World, config: TrainConfig) -> set[bool]:
    """Of the convolutions' weights, and of the images that the loop hands to the step: NHWC?"""
    seen: set[bool] = set()
    plain = steps.head_step

    def watched(tdmm: Any, batch: Any, losses: Any) -> Any:
        weights = [m.weight for m in tdmm.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
        weights = [weight for weight in weights if weight.shape[1] > 1]
        for tensor in (batch.image, *weights):
            seen.add(tensor.is_contiguous(memory_format=torch.channels_last))
        return plain(tdmm, batch, losses)

    with patch("safa.training.stages.head_step", watched):
        world.kept.pop(("fit", config.model_dump_json()), None)
        _fitted(world, config)
    return seen


def compiled(world: World, config: TrainConfig) -> int:
    """Networks that are compiled."""
    asked: list[str] = []
    with patch.object(nn.Module, "compile", lambda module, **_: asked.append(type(module).__name__)):
        _stage(config)
    return len(asked)


def blocks_computed_again(world: World, config: TrainConfig) -> set[str]:
    """Networks with blocks that keep their inputs alone."""
    networks = _stage(config).networks
    return {
        name
        for name, network in networks.items()
        if any(isinstance(module, Checkpointed) for module in network.modules())
    }


# ---- machines ---------------------------------------------------------------------------------------------


def _trainer(config: TrainConfig) -> dict[str, Any]:
    """What Ray Train is asked for; nothing is started."""

    class Trainer(Recorder):
        def fit(self) -> Any:
            return Recorder()

    made = Recorder(type("Fit", (), {"fit": lambda self: type("Result", (), {"return_value": None})}))
    made._result = made._result()
    with (
        patch.object(program, "TorchTrainer", made),
        patch.object(program, "ray_session", nullcontext),
        patch.object(program, "shared", nullcontext),
        patch.object(program, "_start_notice", lambda: None),
        patch.object(program, "room_for", lambda *_: nullcontext()),
        patch.object(program, "gpus_to_come", lambda: 0),
        patch.object(program, "machines", lambda: [Machine(9, 2)]),
        patch.object(program.ray.train, "RunConfig", None, create=True),
    ):
        program.train_on_ray(config)
    return made.first[1]


def ray_scaling(name: str) -> Callable[..., Any]:
    def observed(world: World, config: TrainConfig) -> Any:
        return getattr(_trainer(config)["scaling_config"], name)

    observed.__name__ = f"ray_{name}"
    return observed


def ray_cpus(world: World, config: TrainConfig) -> float:
    return float(_trainer(config)["scaling_config"].resources_per_worker["CPU"])


def ray_backend(world: World, config: TrainConfig) -> str:
    return str(_trainer(config)["torch_config"].backend)


def ray_threads(world: World, config: TrainConfig) -> str:
    return str(_trainer(config)["run_config"].worker_runtime_env["env_vars"]["OMP_NUM_THREADS"])


def ray_failures(world: World, config: TrainConfig) -> int:
    return int(_trainer(config)["run_config"].failure_config.max_failures)


def threads(world: World, config: TrainConfig) -> int:
    asked = Recorder()
    with (
        patch.object(torch, "set_num_threads", asked),
        patch.object(loop, "TrainingDataLoader", Recorder()),
        patch.object(loop, "_Run", Recorder(Recorder())),
        pytest.raises(AttributeError),
    ):
        loop.fit(config, LocalContext())
    return int(asked.first[0][0])


def where_it_trains(world: World, config: TrainConfig) -> str:
    used: list[str] = []
    with (
        patch.object(program, "train_locally", lambda _: used.append("here")),
        patch.object(program, "train_on_ray", lambda _: used.append("on Ray")),
        patch.object(program, "read_model_weights", lambda _: (None, Recorder())),
        pytest.raises(AttributeError),
    ):
        program.train(config.model_copy(update={"runs": world.folder()}))
    return used[0]


def local_device(world: World, config: TrainConfig) -> str:
    used: list[Any] = []
    with patch.object(program, "fit", lambda _, context: used.append(context)):
        program.train_locally(config)
    return str(used[0].device)


def model_of_stage(world: World, config: TrainConfig) -> tuple[int, int]:
    """Sizes of the networks: keypoints of the detector, and channels of the discriminator's input."""
    stage = _stage(config)
    detector = stage.networks["kp_detector"].num_keypoints
    return detector, next(stage.networks["discriminator"].parameters()).shape[1]


# ---- the rows ---------------------------------------------------------------------------------------------

HEAD, FULL = "stage[HeadStage]", "stage[FullStage]"
VALIDATE = {"validate_on": lambda w: {"every": 2, "clips": 1, "frames": 2}}
FOUR = {"schedule.length": 4}


def _data_rows() -> Iterator[Row]:
    yield Row("data.clips", lambda w: w.clips, lambda w: w.faces, ids, _other_clips)
    yield Row(
        "data.split", "train", "test", ids, are({"ann", "ben", "cat"}, {"dan"}), {"data.min_identities": 1}
    )
    yield Row("data.min_identities", 3, 4, refused, are(False, True))
    yield Row("data.batch_size", 2, 5, length_of_batch, are(2, 5))
    yield Row(
        "data.batch_total", 4, 7, lengths_of_shared_batches, are([4, 2], [7, 4]), {"data.batch_size": None}
    )
    yield Row("data.num_repeats", 2, 7, samples, are((6, 2), (21, 2)))
    yield Row("data.loader_workers", 0, 3, loader_processes, are(0, 3))
    yield Row("data.landmarks", None, "moved", landmarks_of_batch, are(0.0, 1.5), {"data.clips": _annotated})
    yield Row("data.stage_to", None, lambda w: w.root / "node-disk", shards_on_the_node, are(0, 1))
    yield Row(
        *("data.stage_gb", 1e-9, 1.0, shards_on_the_node, are(0, 1)),
        {"data.stage_to": "node-disk-of-some-gb"},
    )
    yield Row("data.cache_mb", 0, 1, frames_read_again, are(2, 0))
    amounts = {brightness: 0.1, contrast: 0.15, saturation: 0.4, hue: 0.1}  # so small that little is clamped
    for look, amount in amounts.items():
        yield Row(
            f"data.jitter.{look.__name__}", 0.0, amount, look, one_stays, {**STILL, f"{HEAD}.mirror": 0.0}
        )
    head = {**STILL, f"{HEAD}.mirror": 0.0}
    yield Row(f"{HEAD}.mirror", 0.0, 1.0, mirrored, are("as it is", "mirrored"), dict(STILL))
    for number, (name, value) in enumerate((("shift", 0.2), ("zoom", 0.3), ("turn_deg", 30.0))):
        yield Row(f"{HEAD}.similarity.{name}", 0.0, value, moved, _only(number), head)
    yield Row(f"{FULL}.time_flip", 0.0, 1.0, order_in_pairs, are(True, False))


def _other_clips(a: set[str], b: set[str]) -> bool:
    return a == {"ann", "ben", "cat"} and "split 'train'" in next(iter(b))


def _only(number: int) -> Callable[[Any, Any], bool]:
    """One of shift, zoom and turn."""

    def relation(a: list[float], b: list[float]) -> bool:
        others = [value for n, value in enumerate(b) if n != number]
        return a == [0, 0, 0] and b[number] > 0.3 and others == [0, 0]

    return relation


def _stage_rows() -> Iterator[Row]:
    yield Row("stage.kind", "head", "full", networks, are(["tdmm"], _ALL))
    yield Row(f"{HEAD}.lr", 2e-4, 1e-3, optimiser("tdmm", "initial_lr"), are(2e-4, 1e-3))
    yield Row(
        f"{HEAD}.betas", [0.9, 0.999], [0.5, 0.9], optimiser("tdmm", "betas"), are((0.9, 0.999), (0.5, 0.9))
    )
    yield Row(f"{HEAD}.losses.weights.landmark", 1.0, 3.0, term("landmark"), times(3))
    yield Row(f"{HEAD}.losses.weights.expression", 1.0, 3.0, term("expression"), times(3))
    yield Row(f"{HEAD}.losses.weights.tdmm_param", 0.001, 0.003, term("tdmm_param"), times(3))
    yield Row(
        f"{FULL}.init",
        None,
        lambda w: w.checkpoint,
        distance_from_checkpoint,
        lambda a, b: a > 1e-3 and b == 0,
    )
    for name in ("generator", "kp_detector", "tdmm", "discriminator"):
        yield Row(f"{FULL}.lr.{name}", 2e-4, 1e-3, optimiser(name, "initial_lr"), are(2e-4, 1e-3))
        yield Row(
            f"{FULL}.betas", [0.5, 0.999], [0.9, 0.9], optimiser(name, "betas"), are((0.5, 0.999), (0.9, 0.9))
        )
    started = {f"{FULL}.init": lambda w: w.checkpoint, f"{FULL}.encoder_dropout": False}
    weights = {
        "landmark": 1.0,
        "expression": 1.0,
        "photometric": 1.0,
        "tdmm_param": 0.01,
        "perceptual": 10.0,
        "generator_gan": 1.0,
        "feature_matching": 10.0,
        "discriminator_gan": 1.0,
        "equivariance_value": 10.0,
        "equivariance_jacobian": 10.0,
    }
    for name, weight in weights.items():
        key = f"{FULL}.losses.weights.{name}"
        yield Row(key, weight, 3 * weight, term(name), times(3), started)
    yield Row(
        f"{FULL}.losses.weights.perceptual",
        10.0,
        0.0,
        term("perceptual"),
        lambda a, b: a > 0 and b is None,
        started,
    )
    yield Row(f"{FULL}.losses.weights.keypoint_spread", 1.0, 3.0, spread, times(3), started)
    losses = f"{FULL}.losses"
    for part in ("mouth", "eyes"):
        yield Row(f"{losses}.parts.{part}", 0.0, 20.0, term("perceptual"), rises, started)
    yield Row(
        *(f"{losses}.perceptual.backend", "pixel_pyramid", "vgg19", perceptual_features),
        *(lambda a, b: (a[0], b[0]) == ("pixel_features", "Vgg"),),
        {f"{losses}.perceptual.weights": lambda w: None},
    )
    yield Row(
        *(f"{losses}.perceptual.weights", lambda w: w.red, lambda w: w.blue, perceptual_features),
        are(("Vgg", ["photo-200.png"]), ("Vgg", ["photo-30.png"])),
        {f"{losses}.perceptual.backend": "vgg19"},
    )
    yield Row(
        *(f"{losses}.perceptual.backend", "pixel_pyramid", "efficientnet_lite0", perceptual_features),
        are(("pixel_features", []), ("PixelsAndFeatures", ["the package's"])),
        {f"{losses}.perceptual.weights": lambda w: None},
    )
    yield Row(
        *(f"{losses}.perceptual.weights", lambda w: w.red, lambda w: w.blue, perceptual_features),
        are(("PixelsAndFeatures", ["photo-200.png"]), ("PixelsAndFeatures", ["photo-30.png"])),
        {f"{losses}.perceptual.backend": "efficientnet_lite0"},
    )
    yield Row(f"{losses}.perceptual.scales", [1.0], [1.0, 0.5], term("perceptual"), rises, started)
    yield Row(f"{losses}.equivariance.affine_std", 0.05, 0.0, affine_noise, lambda a, b: a > 0.01 and b == 0)
    yield Row(f"{losses}.equivariance.tps_std", 0.005, 0.0, bend, lambda a, b: a > 0.001 and b == 0)
    yield Row(f"{losses}.equivariance.tps_points", 5, 3, control_points, are(25, 9))
    yield Row(f"{FULL}.encoder_dropout", True, False, two_passes, are((False, True), (True, True)))
    yield Row(f"{FULL}.ema_decay", None, 0.9, lag_of_average, are(None, 0.9))
    yield Row(f"{FULL}.ema_decay", None, 0.9, saved_model_is_the_average, are(False, True))


_ALL = ["discriminator", "generator", "kp_detector", "tdmm"]


def networks(world: World, config: TrainConfig) -> list[str]:
    return sorted(_stage(config).networks)


def _loop_rows() -> Iterator[Row]:
    yield Row("runs", lambda w: w.root / "a", lambda w: w.root / "b", folder_of_runs, are("a", "b"))
    yield Row("name", "run", "other", name_of_run, are(("run", "run"), ("other", "other")))
    yield Row("seed", 0, 1, first_weights, differ)
    yield Row("seed", 0, 1, order_of_samples, differ)
    # Two samples a step; 6 in an epoch.
    yield Row("schedule.unit", "steps", "epochs", steps_logged, are([1, 2], [1, 2, 3, 4, 5, 6]))
    yield Row("schedule.length", 2, 4, steps_logged, are([1, 2], [1, 2, 3, 4]))
    yield Row("schedule.milestones", [], [1, 3], lr_factors, are([1.0] * 4, [1.0, 0.1, 0.1, 0.01]), FOUR)
    yield Row(
        *("schedule.gamma", 0.1, 0.5, lr_factors, are([1.0, 0.1, 0.1, 0.01], [1.0, 0.5, 0.5, 0.25])),
        FOUR | {"schedule.milestones": [1, 3]},
    )
    yield Row("schedule.cosine", False, True, lr_factors, are([1.0] * 4, [1.0, 0.8536, 0.5, 0.1464]), FOUR)
    yield Row("schedule.warmup_steps", 0, 3, lr_factors, are([1.0] * 4, [0.25, 0.5, 0.75, 1.0]), FOUR)
    yield Row("schedule.warmup_steps", 0, 3, first_weights, differ, FOUR)
    yield Row(
        "step.accumulate", 1, 3, batches_of_a_step, are((1, 2), (3, 6)), {"schedule.length": 1, "seed": 77}
    )
    yield Row("step.clip_norm", None, 0.01, gradient_norm, lambda a, b: a > 0.02 and abs(b - 0.01) < 1e-4)
    yield Row("step.bf16", False, True, dtype_of_convolutions, are(torch.float32, torch.bfloat16))
    yield Row("step.channels_last", False, True, memory_layouts, are({False}, {True}))
    yield Row("step.fused_adam", True, False, optimiser("tdmm", "fused"), are(True, False))
    again = Row("step.activation_checkpoints", False, True, blocks_computed_again, are(set(), {"tdmm"}))
    learners = {"tdmm", "generator", "kp_detector"}
    yield from (
        again,
        replace(again, relation=are(set(), learners), changes={"stage.kind": "full"}),
        Row("step.compile", False, True, compiled, are(0, 1)),
    )
    yield Row("step.compile", False, True, compiled, are(0, 4), {"stage.kind": "full"})
    yield Row("validate_on.every", 2, 1, steps_validated, are([2], [1, 2]), VALIDATE)
    yield Row("validate_on.split", "test", "train", held_out, lambda a, b: a[2] != b[2], VALIDATE)
    yield Row("validate_on.clips", 1, 2, held_out, _clips_and_frames((1, 2), (2, 2)), VALIDATE | _TRAIN)
    yield Row("validate_on.frames", 2, 4, held_out, _clips_and_frames((1, 2), (1, 4)), VALIDATE)
    yield Row("checkpoint.every", 2, 1, states_kept, are([2, 4], [1, 2, 3, 4]), FOUR | {"checkpoint.keep": 9})
    yield Row("checkpoint.keep", 1, 3, states_kept, are([4], [2, 3, 4]), FOUR | {"checkpoint.every": 1})
    best = FOUR | VALIDATE | {"validate_on.every": 1, "checkpoint.every": 1, "checkpoint.keep": 1}
    yield Row("checkpoint.keep_best", 0, 4, states_kept, are([4], [1, 2, 3, 4]), best)
    yield Row("log_every", 1, 2, steps_logged, are([1, 2, 3, 4], [2, 4]), FOUR)

    yield from tracking_rows(_log_a_row)


def _log_a_row(world: World, config: TrainConfig) -> None:
    logger = MetricsLogger(config.model_copy(update={"runs": world.folder()}), 0)
    logger.log_training(1, {"losses": {"landmark": 1.0}})
    logger.close(finished=True)


_TRAIN = {"validate_on.split": "train"}


def _clips_and_frames(one: tuple[int, int], other: tuple[int, int]) -> Callable[[Any, Any], bool]:
    return lambda a, b: (a[:2], b[:2]) == (one, other)


def _machine_rows() -> Iterator[Row]:
    two, auto = {"scale.num_workers": 2}, {"scale.num_workers": "auto"}
    yield Row("scale.num_workers", 0, 1, where_it_trains, are("here", "on Ray"))
    yield Row("scale.num_workers", 2, 3, ray_scaling("num_workers"), are(2, 3))
    shared = {"data.batch_size": None, "data.batch_total": 32}
    yield Row("scale.num_workers", "auto", 2, ray_scaling("num_workers"), are(4, 2), shared)
    yield Row("scale.num_workers", "auto", 2, ray_cpus, are(1.8, 1.0), shared)
    yield Row("scale.num_workers", "auto", 2, ray_threads, are("2", "1"), shared)
    yield Row("scale.use_gpu", False, True, ray_scaling("num_workers"), are(4, 2), {**shared, **auto})
    yield Row("scale.min_workers", None, 1, ray_scaling("num_workers"), are(2, (1, 2)), two)
    yield Row("scale.use_gpu", False, True, ray_scaling("use_gpu"), are(False, True), two)
    yield Row("scale.use_gpu", False, True, ray_backend, are("gloo", "nccl"), two)
    yield Row("scale.use_gpu", False, True, local_device, are("cpu", "cuda:0"))
    yield Row("scale.cpus_per_worker", 1.0, 0.5, ray_cpus, are(1.0, 0.5), two)
    yield Row("scale.threads_per_worker", 1, 3, threads, are(1, 3))
    yield Row("scale.threads_per_worker", 1, 3, ray_threads, are("1", "3"), two)
    yield Row("scale.max_failures", 0, 5, ray_failures, are(0, 5), two)


MODEL = [
    Row("model", 4, 3, model_of_stage, are((4, 7), (3, 6)), {"stage.kind": "full"}),
]
TABLE = Table("train", [*_data_rows(), *_stage_rows(), *_loop_rows(), *_machine_rows(), *MODEL], {})


@pytest.mark.parametrize("row", TABLE.rows, ids=lambda row: row.name)
def test_wire(world: World, row: Row) -> None:
    def look(value: Any) -> Any:
        key, changes = row.key, dict(row.changes or {})
        if key == "model":
            key = "model.num_keypoints"
        if key.endswith("perceptual.backend"):
            changes[f"{FULL}.losses.perceptual.weights"] = world.red if value == "vgg19" else None
        return row.look(world, settings(world, key, value, changes))

    check(world, row, look)


def test_every_key_has_a_row() -> None:
    known = [key for key in keys_of(TrainConfig) if not key.startswith("model.")]
    inherited = {key.removeprefix("model.") for key in keys_of(TrainConfig) if key.startswith("model.")}
    assert inherited == set(
        keys_of(ModelConfig)
    )  # the table of the model has them; "model" shows that it comes
    assert len(known) > 70
    assert TABLE.missing([*known, "model"]) == []
    assert TABLE.unknown([*known, "model"]) == []
