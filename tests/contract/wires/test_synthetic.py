"""Every key of the synthetic data set's settings changes what it says."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from safa.config import parse_settings
from safa.config.synthetic import SyntheticConfig
from safa.data.video import probe
from safa.synthetic import writer
from safa.synthetic.scene import build_scene, head_model
from safa.synthetic.truth import Canvas, landmarks_in_frame, load_truth, travel
from safa.synthetic.writer import make_video, video_jobs
from tests.contract.wires.table import Row, Table, are, check, differ, falls, keys_of, with_key
from tests.contract.wires.world import World


def settings(key: str, value: Any, changes: dict[str, Any]) -> SyntheticConfig:
    data: dict[str, Any] = {
        "num_people": 2,
        "num_held_out": 1,
        "videos_per_person": 1,
        "frames_per_video": 24,
    }
    data |= {"two_clip_share": 0.0, "frame_size": [64, 64]}
    for name, each in (*changes.items(), (key, value)):
        data = with_key(data, name, each)
    return parse_settings(data, SyntheticConfig, "test")


def _scene(world: World, config: SyntheticConfig) -> Any:
    return world.once(("scene", config.model_dump_json()), lambda: build_scene(config, 0, 0, False))


def _video(world: World, config: SyntheticConfig) -> Any:
    """A video of white noise in place of the drawing, which takes a second."""

    def make() -> Any:
        folder = world.folder()
        height, width = config.frame_size
        noise = np.random.default_rng(0)
        frames = [noise.integers(0, 255, (height, width, 3), np.uint8) for _ in range(5)]
        with patch.object(writer, "render", lambda *_: iter(frames)):
            name = make_video(config, folder, video_jobs(config)[0])
        return folder / f"{name}.mp4"

    return world.once(("video", config.model_dump_json()), make)


def jobs(world: World, config: SyntheticConfig) -> list[tuple[int, int, bool]]:
    """Person, video, held out."""
    return [(job.person, job.video, job.held_out) for job in video_jobs(config)]


def shape_of_person(world: World, config: SyntheticConfig) -> Any:
    return _scene(world, config).track.shape


def frames(world: World, config: SyntheticConfig) -> int:
    return len(_scene(world, config).track)


def clips_of_a_video(world: World, config: SyntheticConfig) -> int:
    """As its sidecar says."""
    return len(load_truth(_video(world, config).with_suffix("").with_suffix(".truth.npz"))[2])


def size_of_video(world: World, config: SyntheticConfig) -> tuple[int, int]:
    info = probe(_video(world, config))
    return info.height, info.width


def size_of_backdrop(world: World, config: SyntheticConfig) -> tuple[int, ...]:
    return tuple(_scene(world, config).backdrop.shape[:2])


def rate_of_video(world: World, config: SyntheticConfig) -> float:
    return probe(_video(world, config)).fps


def rate_in_the_list(world: World, config: SyntheticConfig) -> str:
    folder = world.folder()
    (folder / "videos").mkdir()
    for path in _video(world, config).parent.iterdir():
        (folder / "videos" / path.name).write_bytes(path.read_bytes())
    writer._publish(config, folder, video_jobs(config)[:1], 1, 0.0)
    with (folder / "metadata.csv").open() as file:
        return next(csv.DictReader(file))["fps"]


def bytes_of_video(world: World, config: SyntheticConfig) -> int:
    size: int = _video(world, config).stat().st_size
    return size


def _points(world: World, config: SyntheticConfig) -> Any:
    return landmarks_in_frame(_scene(world, config).track, Canvas.around(config.frame_size), head_model())


def height_of_face(world: World, config: SyntheticConfig) -> float:
    """Brows to chin, of the frame."""
    points = _points(world, config)
    return float((points[:, 8, 1] - points[:, 17:27, 1].mean(1)).mean() / config.frame_size[0])


def travelled(world: World, config: SyntheticConfig) -> float:
    start, end = _scene(world, config).spans[0]
    return travel(_points(world, config)[start:end])


def _angles(world: World, config: SyntheticConfig) -> Any:
    """Largest yaw, pitch and roll, degrees."""
    rotations = Rotation.from_rotvec(_scene(world, config).track.rotation)
    return np.abs(rotations.as_euler("YXZ", degrees=True)).max(0)


def yaw(world: World, config: SyntheticConfig) -> float:
    return float(_angles(world, config)[0])


def pitch(world: World, config: SyntheticConfig) -> float:
    return float(_angles(world, config)[1])


def roll(world: World, config: SyntheticConfig) -> float:
    return float(_angles(world, config)[2])


def shifted(world: World, config: SyntheticConfig) -> float:
    """How far the person is moved from its place in the first frame, metres."""
    translation = _scene(world, config).track.translation * _scene(world, config).track.scale
    return float(np.abs(translation - translation[:1]).max()) if config.motion.zoom == 0 else 0.0


def zoomed(world: World, config: SyntheticConfig) -> float:
    scale = _scene(world, config).track.scale
    return float(scale.max() / scale.min() - 1)


def jaw(world: World, config: SyntheticConfig) -> float:
    return float(np.degrees(_scene(world, config).track.jaw[:, 0].max()))


def to_nothing(a: float, b: float) -> bool:
    return a > 1e-3 and b < 1e-5


def _rows() -> Iterator[Row]:
    yield Row("seed", 0, 1, shape_of_person, differ)
    people = [(0, 0, False), (1, 0, True)]
    yield Row("num_people", 2, 3, jobs, are(people, [(0, 0, False), (1, 0, False), (2, 0, True)]))
    yield Row("num_held_out", 1, 0, jobs, are(people, [(0, 0, False), (1, 0, False)]))
    more = [(0, 0, False), (0, 1, False), (1, 0, True), (1, 1, True)]
    yield Row("videos_per_person", 1, 2, jobs, are(people, more))
    yield Row("frames_per_video", 24, 30, frames, are(24, 30))
    yield Row("two_clip_share", 0.0, 1.0, clips_of_a_video, are(1, 2))
    yield Row("frame_size", [64, 64], [64, 96], size_of_backdrop, are((64, 64), (64, 96)))
    yield Row("frame_size", [64, 64], [64, 96], size_of_video, are((64, 64), (64, 96)))
    yield Row("face_share", [0.3, 0.3], [0.6, 0.6], height_of_face, lambda a, b: b > 1.6 * a)
    yield Row("fps", 25.0, 12.5, rate_of_video, are(25.0, 12.5))
    yield Row("fps", 25.0, 12.5, rate_in_the_list, are("25", "12.5"))
    yield Row("crf", 14, 40, bytes_of_video, falls)
    yield Row("motion.travel", 0.1, 0.01, travelled, lambda a, b: b < 0.7 * a)
    yield Row("motion.yaw_deg", 35.0, 0.0, yaw, to_nothing)
    yield Row("motion.pitch_deg", 15.0, 0.0, pitch, to_nothing)
    yield Row("motion.roll_deg", 10.0, 0.0, roll, to_nothing)
    yield Row("motion.sway", 0.1, 0.0, shifted, to_nothing, {"motion.zoom": 0.0})
    yield Row("motion.zoom", 0.06, 0.0, zoomed, to_nothing)
    yield Row("motion.jaw_deg", 13.0, 0.0, jaw, to_nothing)


TABLE = Table("synthetic", _rows(), {})


@pytest.mark.parametrize("row", TABLE.rows, ids=lambda row: row.name)
def test_wire(world: World, row: Row) -> None:
    check(world, row, lambda value: row.look(world, settings(row.key, value, dict(row.changes or {}))))


def test_every_key_has_a_row() -> None:
    known = list(keys_of(SyntheticConfig))
    assert len(known) > 15
    assert TABLE.missing(known) == []
    assert TABLE.unknown(known) == []
