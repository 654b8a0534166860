"""Every key of evaluation's settings changes what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipelines import actor_pool, operators, window_stages
from pipelines import evaluate as program
from pipelines.shared_folder import Probe
from pipelines.window_stages import STAGES, Item, Tools, WindowRunner, items_of, table_of
from safa.config import dump_settings, parse_settings
from safa.config.inference import EvaluateConfig
from safa.config.training import TrainConfig
from safa.cores import Machine
from safa.data.clip_store import ClipStore
from safa.data.video import probe
from safa.errors import Failure, FailureCode, UserError
from safa.evaluation import scorers
from safa.evaluation.clip_files import STRIP, VIDEO
from safa.evaluation.jobs import EvaluationJob, list_jobs
from safa.evaluation.windows import Window, windows_of
from safa.head import raster
from safa.inference.model_runner import ModelRunner
from safa.models.face_parser import FaceParser
from safa.models.safa import Safa
from safa.models.tdmm import Tdmm
from tests.contract.wires.followers import tracking_rows
from tests.contract.wires.table import Row, Table, are, check, differ, falls, keys_of, with_key
from tests.contract.wires.world import Recorder, World

EVE, GUS = "eve#v#000000#000006", "gus#v#000000#000006"


def settings(world: World, key: str, value: Any, changes: dict[str, Any]) -> EvaluateConfig:
    data: dict[str, Any] = {
        "model": str(world.checkpoint),
        "clips": str(world.faces),
        "out": str(world.root / "evaluation"),
        "visuals": {"panel": 32, "strip_frames": 3},
    }
    for name, each in (*changes.items(), (key, value)):
        each = each(world) if callable(each) else each
        data = with_key(data, name, str(each) if isinstance(each, Path) else each)
    return parse_settings(data, EvaluateConfig, "test")


# ---- one clip, as the actor does it -----------------------------------------------------------------------


def _evaluate(world: World, config: EvaluateConfig, mode: str) -> Path:
    """The output of one job of this mode."""
    config = config.model_copy(update={"modes": (mode,), "out": world.folder()})
    job = EvaluationJob(mode, EVE, EVE if mode in ("mesh", "reconstruction") else GUS)  # type: ignore[arg-type]
    windows = windows_of(job, 0, 6, 128, shown=True)
    for table in WindowRunner(config, STAGES)(table_of(map(Item, windows))):
        for item in items_of(table):
            assert item.failure is None, item.failure
    return Path(config.out)


def _out(world: World, config: EvaluateConfig, mode: str) -> Path:
    """The same, once for each settings."""

    def do() -> Path:
        with _small_parser():
            return _evaluate(world, config, mode)

    folder: Path = world.once(("evaluate", mode, config.model_dump_json()), do)
    return folder


def _done(world: World, config: EvaluateConfig, mode: str) -> Path:
    """The folder with the files of the clip."""
    out = _out(world, config, mode)
    (folder,) = (out / "clips" / mode).iterdir()
    return folder


def _small_parser() -> Any:
    """The face parser's network takes long: half a face everywhere."""
    half = torch.full((1, 19, 32, 32), 0.5 / 19)
    half[:, 1] = 0.5
    return patch.object(FaceParser, "probabilities", lambda _, image: half.expand(len(image), -1, -1, -1))


def keypoints_of_model(world: World, config: EvaluateConfig) -> int:
    return int(Tools(config).model.runner.model.config.num_keypoints)


def rasteriser_of_model(world: World, config: EvaluateConfig) -> str:
    with patch.object(raster, "find_spec", lambda name: object()):
        return str(Tools(config).model.runner.model.tdmm._rasterizer.__name__)


def precision_of_model(world: World, config: EvaluateConfig) -> set[Any]:
    """Autocast inside the model, also where it only fits heads."""
    seen: set[Any] = set()
    plain = Tdmm.estimate

    def estimate(tdmm: Tdmm, image: Any) -> Any:
        on = torch.is_autocast_enabled("cpu")
        seen.add(torch.get_autocast_dtype("cpu") if on else None)
        return plain(tdmm, image)

    with patch.object(Tdmm, "estimate", estimate):
        for mode in ("reconstruction", "mesh"):
            _evaluate(world, config, mode)
    return seen


def people(world: World, config: EvaluateConfig) -> set[str]:
    return {clip.person_id for clip in Tools(config).reader._store.clips()}


def _transferred(world: World, config: EvaluateConfig) -> tuple[Any, Any, Any]:
    """Source, reference and what came of an animation."""
    seen: list[Any] = []
    plain = ModelRunner.animate

    def animate(runner: Any, source: Any, driving: Any, transfer: Any, reference: Any = None) -> Any:
        batches = list(plain(runner, source, driving, transfer, reference))
        seen.append((source, reference, batches))
        return iter(batches)

    with patch.object(ModelRunner, "animate", animate):
        _evaluate(world, config, "animation")
    return seen[0]


def first_frame_is_the_source(world: World, config: EvaluateConfig) -> bool:
    source, _, batches = _transferred(world, config)
    way = batches[0].result.kp_driving.value[0] - source.face.keypoints.value[0]
    return bool(way.abs().max() < 1e-5)


def way_of_keypoints(world: World, config: EvaluateConfig) -> float:
    source, _, batches = _transferred(world, config)
    return float((batches[-1].result.kp_driving.value[-1] - source.face.keypoints.value[0]).norm())


def number_of_reference(world: World, config: EvaluateConfig) -> int:
    """Which driving frame motion is measured from."""
    _, reference, _ = _transferred(world, config)
    frames = ClipStore(config.clips).frames(GUS, range(6))
    return [bool((frame == reference).all()) for frame in frames].index(True)


def mask(world: World, config: EvaluateConfig) -> tuple[str, Any, bool]:
    """Kind, classes, and whether it is hard."""
    config = config.model_copy(update={"modes": ("swap",)})
    found = world.once(("mask", config.model_dump_json()), lambda: Tools(config).model.mask)
    return type(found).__name__, getattr(found, "classes", None), found.hard


def shapes_drawn(world: World, config: EvaluateConfig) -> set[bool]:
    """Whether the head shape that is drawn is the source's."""
    seen: set[bool] = set()
    plain = Safa.reenact

    def reenact(model: Any, source: Any, driving: Any, **options: Any) -> Any:
        shape = driving.code.shape
        seen.add(torch.equal(shape, source.face.code.shape.expand_as(shape)))
        return plain(model, source, driving, **options)

    with patch.object(Safa, "reenact", reenact):
        _evaluate(world, config, "swap")
    return seen


def mask_values(world: World, config: EvaluateConfig) -> set[float]:
    """Of the mask of a clip's frames."""
    seen: list[Tensor] = []
    plain = ModelRunner.swap

    def swap(runner: Any, source: Any, driving: Any, place: Any, **options: Any) -> Any:
        for batch in plain(runner, source, driving, place, **options):
            seen.append(batch.mask)
            yield batch

    with patch.object(ModelRunner, "swap", swap), _small_parser():
        _evaluate(world, config, "swap")
    values = set(torch.cat([each.flatten() for each in seen]).tolist())
    return {min(values), max(values)} | ({0.123} if len(values) > 2 else set())


def meshes(world: World, config: EvaluateConfig) -> list[str]:
    folder = _done(world, config, "mesh")
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".obj", ".ply"))


def width_of_strip(world: World, config: EvaluateConfig) -> int:
    with Image.open(_done(world, config, "reconstruction") / STRIP) as picture:
        return picture.width


def height_of_strip(world: World, config: EvaluateConfig) -> int:
    with Image.open(_done(world, config, "reconstruction") / STRIP) as picture:
        return picture.height


def width_of_video(world: World, config: EvaluateConfig) -> int:
    return probe(_done(world, config, "reconstruction") / VIDEO).width


def bytes_of_video(world: World, config: EvaluateConfig) -> int:
    return (_done(world, config, "reconstruction") / VIDEO).stat().st_size


def scores(name: str) -> Callable[..., Any]:
    """Whether the frames of a reconstruction have this score."""

    def observed(world: World, config: EvaluateConfig) -> bool:
        table = pq.read_table(_out(world, config, "reconstruction") / "frames")
        return bool(np.isfinite(table[name].to_numpy()).any())

    observed.__name__ = f"scores_{name}"
    return observed


def scored_frames(name: str) -> Callable[..., Any]:
    """Which frames of a reconstruction have this score."""

    def observed(world: World, config: EvaluateConfig) -> list[int]:
        table = pq.read_table(_out(world, config, "reconstruction") / "frames")
        return [int(number) for number in np.flatnonzero(np.isfinite(table[name].to_numpy()))]

    observed.__name__ = f"scored_frames_{name}"
    return observed


def loaded(name: str) -> Callable[..., Any]:
    """Whether a network is there."""

    def observed(world: World, config: EvaluateConfig) -> bool:
        with patch.object(scorers, "load_lpips", lambda path: nn.Identity()), _pretend_small():
            found = Tools(config).networks.scorer._scorers
        return getattr(found, name) is not None

    observed.__name__ = f"loaded_{name}"
    return observed


def skipped(metric: str) -> Callable[..., Any]:
    def observed(world: World, config: EvaluateConfig) -> bool:
        return metric in scorers.skipped_metrics(config.scorers, 256)

    observed.__name__ = f"skipped_{metric}"
    return observed


def _pretend_small() -> Any:
    """LPIPS needs larger pictures than these."""
    return patch.object(scorers, "LPIPS_MIN_SIZE", 16)


def feature_files(world: World, config: EvaluateConfig) -> int:
    return len(list((_out(world, config, "reconstruction") / "features").glob("*.parquet")))


def largest_batch(world: World, config: EvaluateConfig) -> int:
    sizes: list[int] = []
    plain = ModelRunner.to_batch

    def to_batch(runner: Any, frames: Any) -> Any:
        sizes.append(len(frames))
        return plain(runner, frames)

    with patch.object(ModelRunner, "to_batch", to_batch):
        _evaluate(world, config, "reconstruction")
    return max(sizes)


def threads_of_actor(world: World, config: EvaluateConfig) -> int:
    asked = Recorder()
    with patch.object(torch, "set_num_threads", asked):
        Tools(config)
    return int(asked.first[0][0])


class _Enough(Exception):
    pass


def device_of_actor(world: World, config: EvaluateConfig) -> str:
    def load(path: Path, device: str, rasterizer: str) -> Any:
        raise _Enough(device)

    with patch.object(window_stages, "load_model", load), pytest.raises(_Enough) as enough:
        _ = Tools(config).model
    return str(enough.value)


# ---- jobs -------------------------------------------------------------------------------------------------


def pairs(world: World, config: EvaluateConfig) -> list[tuple[str, str]]:
    """Source and driver of the animations, by person, of four people's clips."""
    clips = list(ClipStore(world.clips).clips())
    jobs = list_jobs(clips, config.model_copy(update={"modes": ("animation",)}))
    return [(job.source.split("#")[0], job.driving.split("#")[0]) for job in jobs]


def pair_count(world: World, config: EvaluateConfig) -> int:
    return len(pairs(world, config))


def _list_of_pairs(world: World) -> Path:
    path = world.root / "pairs.csv"
    path.write_text("source,driving\ncat#v#000000#000006,ann#v#000000#000006\n")
    return path


# ---- the program ------------------------------------------------------------------------------------------


def _ran(
    world: World, config: EvaluateConfig, code: FailureCode = FailureCode.NO_FACE
) -> tuple[list[Window], dict[str, str]]:
    """Windows of the program, all of which fail, and the texts that it writes."""

    key = ("program", code, config.model_dump_json())
    result: tuple[list[Window], dict[str, str]] = world.once(key, lambda: _run(world, config, code))
    return result


def _run(
    world: World, config: EvaluateConfig, code: FailureCode = FailureCode.NO_FACE
) -> tuple[list[Window], dict[str, str]]:
    windows: list[Window] = []

    def process(_: Any, missing: Any, probe: Any) -> Iterator[Item]:
        windows.extend(missing)
        for window in missing:
            reason = code if window.number == 0 else FailureCode.NO_FACE
            failure = Failure(window.job.title, reason, "test", f"evaluate/{window.job.mode}")
            yield Item(window, failure=failure)

    out = world.folder() / config.out.name
    with (
        patch.object(program, "process", process),
        patch.object(program, "ray_session", nullcontext),
        patch.object(program, "refuse_nothing", lambda *_: None),
    ):
        program.evaluate(config.model_copy(update={"out": out}), {})
    return windows, {path.name: path.read_text() for path in (out / "index.html", out / "metrics.json")}


def _evaluate_all(world: World, config: EvaluateConfig) -> None:
    _run(world, config)


def people_evaluated(world: World, config: EvaluateConfig) -> set[str]:
    return {window.job.driving.split("#")[0] for window in _ran(world, config)[0]}


def modes_evaluated(world: World, config: EvaluateConfig) -> set[str]:
    return {window.job.mode for window in _ran(world, config)[0]}


def frames_evaluated(world: World, config: EvaluateConfig) -> int:
    return max(window.last for window in _ran(world, config)[0])


def length_of_windows(world: World, config: EvaluateConfig) -> int:
    return max(window.last - window.first for window in _ran(world, config)[0])


def clips_shown(world: World, config: EvaluateConfig) -> int:
    return len({window.number for window in _ran(world, config)[0] if window.shown})


def page(world: World, config: EvaluateConfig) -> str:
    return _ran(world, config)[1]["index.html"]


def raises(world: World, config: EvaluateConfig) -> bool:
    """Whether one unexpected failure in four ends the run with an error."""
    try:
        _ran(world, config, FailureCode.UNEXPECTED)
    except UserError:
        return True
    return False


def out_of_actor(world: World, config: EvaluateConfig) -> Path:
    return Path(str(WindowRunner(config, STAGES)._config.out))


def ray_options(name: str) -> Callable[..., Any]:
    """What is asked of Ray Data."""

    class Data:
        map_batches = Recorder()

        def iter_batches(self, **_: Any) -> Iterator[Any]:
            return iter(())

    def observed(world: World, config: EvaluateConfig) -> Any:
        data = Data()
        data.map_batches = Recorder(data)
        with (
            patch.object(program, "window_rows", lambda *_: data),
            patch.object(program, "room_for", lambda *_: nullcontext()),
            patch.object(program, "live_stages", lambda *_: nullcontext()),
            patch.object(operators, "machines_at_most", lambda: [Machine(64, 8)]),
            patch.object(actor_pool, "machines", lambda: [Machine(3, 8)]),
        ):
            job = EvaluationJob("mesh", EVE, EVE)
            windows = [Window(job, number, 0, 0, 6, 6, False) for number in range(5)]
            list(program.process(config, windows, Probe("out", "probe")))
        calls = [options for _, options in data.map_batches.calls]
        if name == "num_tasks_cpus":
            return calls[0]["num_cpus"]
        (options,) = (each for each in calls if hasattr(each["compute"], "min_size"))
        pool = options["compute"]
        return (pool.min_size, pool.max_size) if name == "actors" else options[name]

    observed.__name__ = f"ray_{name}"
    return observed


# ---- networks that score ----------------------------------------------------------------------------------


class _Corner(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.zeros(len(image), 68, 2)


class _Means(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=(2, 3))


class _Pool(nn.Module):
    def forward(self, image: Tensor, return_features: bool = False) -> Tensor:
        return image.float().mean(dim=(2, 3))


def script(module: type[nn.Module]) -> Callable[[World], Path]:
    def saved(world: World) -> Path:
        path = world.root / f"{module.__name__}.pt"
        if not path.exists():
            torch.jit.script(module()).save(str(path))  # type: ignore[no-untyped-call]
        return path

    return saved


def _history(world: World) -> list[str]:
    """A run folder of training."""
    folder = world.root / "earlier"
    if not folder.exists():
        folder.mkdir()
        data = {
            "name": "earlier-run",
            "model": world.model_settings(),
            "data": {"clips": str(world.clips), "batch_size": 2},
            "stage": {"kind": "head"},
            "schedule": {"unit": "steps", "length": 77},
            "checkpoint": {"every": 1},
        }
        (folder / "config.yaml").write_text(dump_settings(parse_settings(data, TrainConfig, "test")))
    return [str(folder)]


def _rows() -> Iterator[Row]:
    yield Row("model", lambda w: w.checkpoint, lambda w: w.other_checkpoint, keypoints_of_model, are(4, 3))
    yield Row(
        *("clips", lambda w: w.clips, lambda w: w.faces, people),
        are({"ann", "ben", "cat", "dan"}, {"eve", "gus"}),
    )
    four = {"clips": lambda w: w.clips, "modes": ["reconstruction"]}
    yield Row("splits", ["test"], ["train"], people_evaluated, are({"dan"}, {"ann", "ben", "cat"}), four)
    yield Row(
        "out",
        lambda w: w.root / "a",
        lambda w: w.root / "b",
        out_of_actor,
        lambda a, b: (a.name, b.name) == ("a", "b"),
    )
    yield Row(
        *("title", "SAFA evaluation", "Another title", page),
        lambda a, b: "Another title" in b and "Another title" not in a,
    )
    yield Row(
        *("modes", ["reconstruction"], ["animation", "mesh"], modes_evaluated),
        are({"reconstruction"}, {"animation", "mesh"}),
    )
    yield from (
        Row("rasterizer", "auto", "pytorch3d", rasteriser_of_model, are("rasterize", "rasterize_pytorch3d")),
        Row("precision", "float32", "bfloat16", precision_of_model, are({None}, {torch.bfloat16})),
        Row("precision", "float32", "bfloat16", page, lambda a, b: "run in bfloat16" in b and a != b),
    )
    yield Row("frames", None, 3, frames_evaluated, are(6, 3))
    yield Row(
        *("animation.csv", None, _list_of_pairs, pairs),
        lambda a, b: len(a) == 6 and b == [("cat", "ann")],
    )
    yield Row("animation.pairs", 6, 2, pair_count, are(6, 2))
    yield Row("animation.seed", 0, 1, pairs, differ)
    transfer = "animation.transfer"
    yield from (
        Row(f"{transfer}.mode", "relative", "absolute", first_frame_is_the_source, are(True, False)),
        Row(f"{transfer}.adapt_scale", False, True, way_of_keypoints, differ),
        Row(f"{transfer}.best_frame", False, True, number_of_reference, are(0, 3)),
    )
    outline, parser = ("HeadOutline", None), {"swap.weights": lambda w: w.parser_file}
    whole, nose = ("FaceMask", tuple(range(1, 16))), ("FaceMask", (10,))
    yield Row("swap.weights", None, lambda w: w.parser_file, mask, are((*outline, False), (*whole, False)))
    yield Row("swap.classes", None, ["nose"], mask, are((*whole, False), (*nose, False)), parser)
    yield Row("swap.hard", False, True, mask, are((*whole, False), (*whole, True)), parser)
    yield Row(
        *("swap.hard", False, True, mask_values),
        lambda a, b: 0.123 in a and b == {0.0, 1.0},
    )
    yield Row(
        *("swap.hard", False, True, mask_values),
        lambda a, b: a != {0.0, 1.0} and b <= {0.0, 1.0},
        parser,
    )
    yield Row("swap.source_shape", False, True, shapes_drawn, are({False}, {True}))
    yield Row("mesh.export", [], ["obj", "ply"], meshes, are([], ["frame000003.obj", "frame000003.ply"]))
    yield Row(
        *("mesh.export_frames", 1, 2, meshes),
        *(lambda a, b: (len(a), len(b)) == (1, 2), {"mesh.export": ["ply"]}),
    )
    yield Row("scorers.landmarks", None, "model", scores("akd"), are(False, True))
    yield Row("scorers.landmarks", None, script(_Corner), scores("akd"), are(False, True))
    yield Row("scorers.identity", None, script(_Means), scores("csim"), are(False, True))
    yield Row(
        *("scorers.landmarks_every", 1, 3, scored_frames("akd")),
        *(are([0, 1, 2, 3, 4, 5], [0, 3]), {"scorers.landmarks": script(_Corner)}),
    )
    yield Row(
        *("scorers.identity_every", 1, 4, scored_frames("csim")),
        *(are([0, 1, 2, 3, 4, 5], [0, 4]), {"scorers.identity": script(_Means)}),
    )
    yield from (
        Row("scorers.lpips", None, lambda w: w.parser_file, loaded("lpips"), are(False, True)),
        Row("scorers.lpips", None, lambda w: w.parser_file, skipped("lpips"), are(True, False)),
        Row("scorers.inception", None, script(_Pool), feature_files, are(0, 1)),
    )
    yield Row("visuals.panel", 32, 64, width_of_strip, lambda a, b: b > 1.5 * a)
    yield Row("visuals.panel", 32, 64, width_of_video, lambda a, b: b > 1.5 * a)
    yield Row("visuals.strip_frames", 2, 4, height_of_strip, lambda a, b: b > 1.5 * a)
    yield Row("visuals.crf", 10, 40, bytes_of_video, falls)
    yield Row("history", [], _history, page, lambda a, b: "77 steps" in b and "77 steps" not in a)
    yield Row("max_unexpected", 0.25, 0.1, raises, are(False, True), {"clips": lambda w: w.faces})
    yield from tracking_rows(_evaluate_all)
    yield from _rows_of_scale()
    yield Row("report.videos", 200, 2, clips_shown, are(3, 2), {**four, "splits": ["train"]})


def _rows_of_scale() -> Iterator[Row]:
    yield Row("scale.actors", [1, 2], [2, 5], ray_options("actors"), are((1, 2), (2, 5)))
    yield Row("scale.actors", None, [1, 5], ray_options("actors"), are((1, 3), (1, 5)))
    yield Row("scale.cpus_per_actor", 1.0, 0.5, ray_options("num_cpus"), are(1.0, 0.5))
    yield Row("scale.gpus_per_actor", 0.0, 0.5, ray_options("num_gpus"), are(None, 0.5))
    yield Row("scale.gpus_per_actor", 0.0, 0.5, device_of_actor, are("cpu", "cuda"))
    yield Row("scale.threads_per_actor", 1, 3, threads_of_actor, are(1, 3))
    yield from (
        Row("scale.batch_size", 4, 2, largest_batch, are(4, 2)),
        Row("scale.window", 128, 4, length_of_windows, are(6, 4)),
    )
    yield Row(
        *("scale.cpus_per_task", 1.0, 0.5, ray_options("num_tasks_cpus"), are(1.0, 0.5)),
        {"scale.gpus_per_actor": 0.5},
    )


TABLE = Table("evaluate", _rows(), {})


@pytest.mark.parametrize("row", TABLE.rows, ids=lambda row: row.name)
def test_wire(world: World, row: Row) -> None:
    def look(value: Any) -> Any:
        return row.look(world, settings(world, row.key, value, dict(row.changes or {})))

    check(world, row, look)


def test_every_key_has_a_row() -> None:
    known = list(keys_of(EvaluateConfig))
    assert len(known) > 30
    assert TABLE.missing(known) == []
    assert TABLE.unknown(known) == []
