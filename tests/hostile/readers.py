"""Every reader of a stranger's file, with a file that it reads; for the corpus and for the fuzzer."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from safa.array_files import read_npy, read_npz
from safa.checkpoint.native import _info, _read_record
from safa.checkpoint.released import read_released
from safa.config import load_settings
from safa.config.demo import DemoConfig
from safa.config.model import HeadConfig
from safa.config.preprocess import MetadataSource
from safa.data.columns import _read_index, read_column, write_part
from safa.data.face_tracks import read_tracks
from safa.data.images import ImageFolder
from safa.data.landmarks import read_sidecar
from safa.data.people import Person, read_people, write_people
from safa.data.sources import COLUMNS, list_jobs
from safa.data.video import DecodeError, write_video
from safa.errors import ClipError, UserError, printable
from safa.evaluation.jobs import read_pairs
from safa.head import load_head_assets
from safa.head.assets import HeadAssets
from safa.head.flame_files import read_flame_model, read_landmark_embedding, read_mask, read_texture_layout
from safa.inference import photos
from safa.inference.inputs import open_frame_source
from safa.reading import read_json
from safa.report.content import read_clips
from safa.tables import read_table
from safa.weights import read_tensors, read_weights

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reader:
    """One reader: ``write`` makes a file that ``read`` reads; ``name`` is the file's.

    ``changes``: how many of them made at random are tried by the tests. Readers of few are slow ones.
    """

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    changes: int = 200

    @property
    def is_slow(self) -> bool:
        """Whether it starts a process for each file."""
        return self.changes < 10


def refusal(read: Callable[[], object]) -> str:
    """What is said of a file, "" if it can be read; any other error goes through."""
    line = ""
    try:
        read()
    except (UserError, ClipError) as error:
        line = str(error)
    except DecodeError as error:  # its callers make one line of it
        line = printable(str(error))
    assert line.isprintable(), line  # so it is one line, too
    assert len(line) < 1000
    return line


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def _npy(*shape: int) -> Callable[[Path], object]:
    return lambda path: np.save(path, np.ones(shape, np.float32))


def _pickled(value: Any) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(pickle.dumps(value, protocol=2))


def _flame() -> dict[str, Any]:
    count = 8
    return {
        "v_template": np.ones((count, 3)),
        "f": np.zeros((4, 3), np.uint32),
        "shapedirs": np.ones((count, 3, 400)),
        "posedirs": np.ones((count, 3, 36)),
        "J_regressor": np.ones((5, count)),
        "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "weights": np.ones((count, 5)),
    }


def _embedding() -> dict[str, Any]:
    shapes = {"static_lmk": (51,), "dynamic_lmk": (79, 17), "full_lmk": (1, 68)}
    faces = {f"{name}_faces_idx": np.zeros(shape, np.int64) for name, shape in shapes.items()}
    return faces | {f"{name}_bary_coords": np.ones((*shape, 3)) for name, shape in shapes.items()}


def _write_embedding(path: Path) -> None:
    np.save(path, np.array(_embedding(), dtype=object), allow_pickle=True)


def _write_safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a.weight": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.int64)}, path)


def _write_parquet(path: Path) -> None:
    columns = {"mode": ["animation"], "source_id": ["a"], "driving_id": ["b"], "folder": ["c"]}
    pq.write_table(pa.table(columns | {"psnr": [20.0]}), path)


def _write_picture(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def _read_photo(path: Path) -> object:
    # Whether it is a video instead, in a process for each file, is tried with the videos.
    with patch.object(photos, "_is_video", lambda path: False):
        return photos.read_photo(path)


def _write_movie(path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), np.uint8)
    write_video(path, frames, 25.0)


def _read_movie(path: Path) -> int:
    return sum(1 for _ in open_frame_source(path).frames())


def _write_list(path: Path) -> None:
    row = ["WMh3ye5tBsE", "10", "60", "624-48-1018-553", "25", "1280", "720", "train", "id10005"]
    path.write_text("\n".join(",".join(line) for line in ([*COLUMNS], row, row)) + "\n")


def _read_list(path: Path) -> object:
    return list_jobs(MetadataSource(kind="metadata", csv=path, videos=path.parent))


def _write_heic(path: Path) -> None:
    from pillow_heif import from_pillow

    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    from_pillow(Image.fromarray(pixels)).save(path, quality=50)


def _write_moving(path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 48, 48, 3), np.uint8)
    first, *others = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=others, duration=40)


def _write_people(path: Path) -> None:
    people = [Person(name, "train", (f"{name}#0#9#0",), np.ones(4, np.float32), 1) for name in ("ann", "bob")]
    write_people(path.parent, people)


def _read_column(path: Path) -> object:
    return read_column(path.parent.parent.parent, path.parent.name)


def _read_column_index(path: Path) -> object:
    return _read_index(path.parent.parent, path.stem)


def _write_column_index(path: Path) -> None:
    points = {"landmarks": np.ones((3, 136), np.float32)}
    write_part(path.parent.parent, path.stem, [("ann#v#000000#000003", [points])])
    shutil.rmtree(path.parent.parent / "parts")


def _write_head(path: Path) -> None:
    load_head_assets(HeadConfig()).save(path)


def _write_released(path: Path) -> None:
    state = {"a.weight": torch.ones(3, 4)}
    torch.save(dict.fromkeys(("generator", "kp_detector", "tdmm"), state) | {"epoch": 1}, path)


TRACK = {"start": 0, "end": 30, "score": 0.9, "box": [0, 0, 32, 32], "code": "", "detail": ""}
NONE = {"start": 40, "end": 43, "score": 0.9, "box": None, "code": "too_short", "detail": "3 frames"}
TRACKS = {"video": "v", "segments": [TRACK, NONE], "width": 64, "height": 64, "fps": 25.0}
PART = 32 * "a"
COLUMN = {"format": 1, "kind": "landmarks", "clips": 0, "frames": 0, "parts": []}
MODEL = {"format": 1, "stage": "full", "run": "r", "step": 5, "trained_on": "", "model": {}}
SETTINGS = (ROOT / "configs" / "smoke" / "demo.yaml").read_text()
READERS = [
    Reader("demo.yaml", _text(SETTINGS), lambda path: load_settings(path, DemoConfig)),
    Reader("list.csv", _write_list, _read_list),
    Reader("pairs.csv", _text("source,driving\na,b\nb,a\n"), lambda path: read_pairs(path, {"a", "b"})),
    Reader("v.landmarks.npy", _npy(5, 68, 2), lambda path: np.array(read_sidecar(path.with_name("v.mp4")))),
    Reader(
        "v.pkl",
        _pickled({n: {"ldmk": np.ones((68, 2))} for n in range(4)}),
        lambda path: read_sidecar(path.with_name("v.mp4")),
    ),
    Reader("a.npy", _npy(4, 4), read_npy),
    Reader("a.npz", lambda path: np.savez(path, a=np.ones(9)), lambda path: read_npz(path, ["a"])),
    Reader("generic_model.pkl", _pickled(_flame()), read_flame_model),
    Reader("landmark_embedding.npy", _write_embedding, read_landmark_embedding),
    Reader("new.pth", lambda path: torch.save({"a": torch.ones(3, 4)}, path), read_weights),
    Reader(
        "old.pth",
        lambda path: torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False),
        read_weights,
    ),
    Reader("a.safetensors", _write_safetensors, read_tensors),
    Reader("head.obj", _text("vt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"), read_texture_layout),
    Reader("mask.png", _write_picture, read_mask),
    Reader("photo.png", _write_picture, _read_photo),
    Reader("photo.jpg", _write_picture, _read_photo),
    Reader("photo.webp", _write_picture, _read_photo),
    Reader("photo.gif", _write_picture, _read_photo),
    Reader("photo.tif", _write_picture, _read_photo),
    Reader("photo.bmp", _write_picture, _read_photo),
    Reader("photo.avif", _write_picture, _read_photo),
    Reader("photo.heic", _write_heic, _read_photo, changes=40),
    Reader("photo.ppm", _write_picture, _read_photo),
    Reader("0000000.png", _write_picture, lambda path: ImageFolder(path.parent, 25.0).info()),
    Reader("video.mp4", _write_movie, _read_movie, changes=4),
    Reader("video.mkv", _write_movie, _read_movie, changes=4),
    Reader("video.gif", _write_moving, _read_movie, changes=4),
    Reader("video.webp", _write_moving, _read_movie, changes=4),
    Reader("clips.parquet", _write_parquet, read_clips),
    Reader("table.parquet", _write_parquet, read_table),
    Reader("a.json", _text(json.dumps({"a": [1, 2.5, "x"]})), read_json),
    Reader("tracks.json", _text(json.dumps(TRACKS)), read_tracks),
    Reader("people.parquet", _write_people, lambda path: read_people(path.parent)),
    Reader("columns/a/column.json", _text(json.dumps(COLUMN)), _read_column),
    Reader(f"columns/a/index/{PART}.arrow", _write_column_index, _read_column_index),
    Reader("model.json", _text(json.dumps(MODEL)), lambda path: _info(_read_record(path), path)),
    Reader("head.npz", _write_head, HeadAssets.load),
    Reader("released.pth.tar", _write_released, read_released),
]
