"""Every key of a later pass over a data set changes what it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines import annotate as program
from pipelines.shared_folder import Probe
from safa.config import parse_settings
from safa.config.annotate import AnnotateConfig
from safa.data import annotators
from safa.data.annotators import make_annotator
from safa.data.clip_store import ClipStore
from safa.errors import UserError
from tests.contract.wires.table import Row, Table, are, check, keys_of, with_key
from tests.contract.wires.world import World

CHOICE = "column[LandmarksColumn].detector"


class Mean(torch.nn.Module):
    """The mean colour of an image."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3)) * self.factor


def _folder(world: World) -> Path:
    def make() -> Path:
        folder = world.folder()
        for name, factor in (("one", 1.0), ("two", 2.0)):
            torch.jit.script(Mean(factor)).save(str(folder / f"{name}.pt"))  # type: ignore[no-untyped-call]
        shutil.copytree(world.clips, folder / "clips")
        return folder

    made: Path = world.once("annotate", make)
    return made


def settings(world: World, key: str, value: Any) -> AnnotateConfig:
    """Settings with one key changed; the key's branch says which column they have."""
    folder = _folder(world)
    detector = {"name": "sfd", "weights": str(folder)}
    columns: dict[str, dict[str, Any]] = {
        "IdentityColumn": {"kind": "identity", "weights": str(folder / "one.pt")},
        "LandmarksColumn": {
            "kind": "landmarks",
            "detector": {"kind": "face_alignment", "detector": detector, "weights": str(folder)},
        },
    }
    column = next((each for name, each in columns.items() if f"[{name}]" in key), {"kind": "quality"})
    data: dict[str, Any] = {"clips": str(folder / "clips"), "name": "col", "column": column}
    value = value(world) if callable(value) else value
    value = str(value) if isinstance(value, Path) else value
    return parse_settings(with_key(data, key, value), AnnotateConfig, "test")


FRAMES = [np.full((16, 16, 3), 50, np.uint8)] * 2


def values_of(world: World, config: AnnotateConfig) -> list[str]:
    return sorted(make_annotator(config)(FRAMES, np.zeros((2, 68, 2), np.float32)))


def embedding(world: World, config: AnnotateConfig) -> float:
    found = make_annotator(config)(FRAMES, np.zeros((2, 68, 2), np.float32))["identity"]
    return round(float(found[0, 0]) * 255 / 50, 3)


def device_of(world: World, config: AnnotateConfig) -> str:
    seen = []

    def load(file: object, map_location: object) -> SimpleNamespace:
        seen.append(map_location)
        return SimpleNamespace(eval=lambda: None)

    with patch.object(torch.jit, "load", load):
        make_annotator(config)
    return str(seen[0])


def parts(world: World, config: AnnotateConfig) -> list[str]:
    """Where the column of the first clip is written."""
    config = config.with_absolute_paths()
    program.ColumnMaker(config)(pa.table({"id": [ClipStore(config.clips).clip_id(0)]}))
    found = sorted(str(p.relative_to(config.clips.parent)) for p in config.clips.rglob("columns/*/parts"))
    shutil.rmtree(config.clips / "columns")
    return found


def frames_per_call(world: World, config: AnnotateConfig) -> int:
    seen: list[int] = []

    def annotator(frames: Any, points: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(len(frames))
        return {"x": np.zeros(len(frames), np.float32)}

    with patch.object(program, "make_annotator", lambda config: annotator):
        list(program.ColumnMaker(config)._pieces([0, 1]))
    return max(seen)


def ray_option(name: str) -> Callable[..., Any]:
    """What the actors ask Ray for."""

    def observed(world: World, config: AnnotateConfig) -> Any:
        asked: dict[str, Any] = {}

        class Data:
            def map_batches(self, worker: Any, **options: Any) -> Any:
                asked.update(options)
                return SimpleNamespace(iter_batches=lambda **_: ())

        with (
            patch.object(program, "_blocks", lambda *_: [["a"]] * 9),
            patch.object(program.ray.data, "from_arrow", lambda tables: Data()),
        ):
            list(program._run(config, ClipStore(config.clips), [], Probe("out", "probe")))
        pool = asked["compute"]
        return (asked | {"least": pool.min_size, "most": pool.max_size})[name]

    observed.__name__ = f"ray_{name}"
    return observed


def complains(world: World, config: AnnotateConfig) -> bool:
    """Of one unexpected failure in four clips."""
    ids = ClipStore(config.clips).column("clip_id").to_pylist()

    def run(config: Any, store: Any, missing: Any, probe: Any) -> Iterator[program.Failure]:
        maker = program.ColumnMaker(config)
        maker(pa.table({"id": ids[1:]}))
        yield program.Failure(ids[0], program.FailureCode.UNEXPECTED, "test")

    with (
        patch.object(program, "_run", run),
        patch.object(program, "ray_session", nullcontext),
        patch.object(program, "room_for", lambda *_: nullcontext()),
    ):
        try:
            program.annotate(config)
        except UserError as error:
            return "unexpectedly" in str(error)
        finally:
            shutil.rmtree(config.clips / "columns")
    return False


def _rows() -> Iterator[Row]:
    quality, who = ["clipped", "exposure", "sharpness"], ["identity"]
    yield Row("column.kind", {"kind": "quality"}, _identity, values_of, are(quality, who))
    identity = "column[IdentityColumn]"
    weights = [lambda w, name=name: _folder(w) / f"{name}.pt" for name in ("one", "two")]
    yield Row(f"{identity}.weights", *weights, embedding, are(1.0, 2.0))
    yield Row(f"{identity}.device", "cpu", "meta", device_of, are("cpu", "meta"))
    yield Row("name", "a", "b", parts, are(["clips/columns/a/parts"], ["clips/columns/b/parts"]))
    yield Row("clips", _copy("x"), _copy("y"), parts, are(["x/columns/col/parts"], ["y/columns/col/parts"]))
    yield Row("stage.cpus", 1.0, 0.5, ray_option("num_cpus"), are(1.0, 0.5))
    yield Row("stage.gpus", 0.5, 0.25, ray_option("num_gpus"), are(0.5, 0.25))
    yield Row("stage.actors", [1, 2], [2, 5], ray_option("least"), are(1, 2))
    yield Row("stage.actors", [1, 2], [2, 5], ray_option("most"), are(2, 5))
    yield Row("stage.batch", 64, 5, frames_per_call, are(12, 5))
    yield Row("max_unexpected", 0.5, 0.1, complains, are(False, True))


def _identity(world: World) -> dict[str, Any]:
    return {"kind": "identity", "weights": str(_folder(world) / "one.pt")}


def _copy(name: str) -> Callable[[World], Path]:
    def made(world: World) -> Path:
        return Path(shutil.copytree(world.clips, _folder(world) / name, dirs_exist_ok=True))

    return made


# The section is that of preprocessing, whose own rows see every key of it change the same networks.
SEEN_THERE = {
    key: "tests/contract/wires/test_preprocess.py: the same settings make the same LibraryLandmarks"
    for key in keys_of(AnnotateConfig)
    if key.startswith("column[LandmarksColumn].")
}
TABLE = Table("annotate", _rows(), SEEN_THERE)


@pytest.mark.parametrize("row", TABLE.rows, ids=lambda row: row.name)
def test_wire(world: World, row: Row) -> None:
    check(world, row, lambda value: row.look(world, settings(world, row.key.removesuffix(".kind"), value)))


def test_the_detector_of_a_column_gets_its_settings(world: World) -> None:
    config = settings(world, f"{CHOICE}.flip", True)
    asked: list[Any] = []
    with patch.object(annotators, "load_landmark_detector", asked.append):
        make_annotator(config)
    assert asked == [config.column.detector]  # type: ignore[union-attr]
    assert asked[0].flip


def test_every_key_has_a_row() -> None:
    known = list(keys_of(AnnotateConfig))
    assert TABLE.missing(known) == []
    assert TABLE.unknown(known) == []
