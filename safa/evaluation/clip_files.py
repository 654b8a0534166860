"""Files of one clip: video, strip and poster of what is shown, and the table of its 3D heads.

A clip of one window gets its folder at once. Of a longer one each window leaves a segment, a folder of its
own; ``join_segments`` makes the clip's folder from them, with the pictures copied, not encoded again.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from safa.config.inference import VisualsConfig
from safa.data.video import write_video
from safa.data.video_join import join_videos
from safa.evaluation.windows import Window
from safa.files import Location, atomic_dir, delete_dir, join, local_dir
from safa.inference.mesh import MESH_SCHEMA
from safa.visualize.images import RgbImage
from safa.visualize.panels import Panel, captioned, strip

VIDEO, STRIP, POSTER, MESHES = "video.mp4", "strip.jpg", "poster.jpg", "mesh.parquet"
STRIP_ROWS = "strip.npz"  # of a segment: the panels of its rows
STRIP_QUALITY, POSTER_QUALITY = 88, 80  # of the JPEGs, 0 to 100
CLIPS, SEGMENTS = "clips", "segments"  # folders of a run; the second is gone at its end


def clip_folder(out: Location, window: Window) -> Location:
    """The folder with the files of a clip."""
    return join(out, CLIPS, window.job.mode, window.job.folder_name)


def segments_folder(out: Location, window: Window) -> Location:
    """The folder with the segments of a clip."""
    return join(out, SEGMENTS, window.job.mode, window.job.folder_name)


def clip_visuals(
    window: Window,
    video: Iterable[Sequence[Panel]],
    rows: Sequence[list[Panel]],
    fps: float,
    config: VisualsConfig,
) -> dict[str, bytes]:
    """Draw what is shown of a window: the files of the clip's folder, or of the window's segment.

    Args:
        video: the panels of each frame.
        rows: the panels of the frames that the clip's strip shows.
    """
    files: dict[str, bytes] = {}
    middle = window.n_frames // 2 - window.first

    def frames() -> Iterator[RgbImage]:
        for number, panels in enumerate(video):
            shown = captioned(panels, config.panel)
            if number == middle:
                files[POSTER] = _jpeg(shown, POSTER_QUALITY)
            yield shown

    with tempfile.TemporaryDirectory(prefix="safa-") as scratch:
        write_video(Path(scratch) / VIDEO, frames(), fps, crf=config.crf)
        files[VIDEO] = (Path(scratch) / VIDEO).read_bytes()
    if window.is_whole:
        files[STRIP] = _strip(rows, config.panel)
    else:
        files[STRIP_ROWS] = _packed(rows)
    return files


def write_files(out: Location, window: Window, files: Mapping[str, bytes]) -> None:
    """Write a window's files, if it has any, into the clip's folder or a segment."""
    if not files:
        return
    folder = clip_folder(out, window)
    if not window.is_whole:
        folder = join(segments_folder(out, window), f"{window.index:06d}")
    with atomic_dir(folder) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)


def join_segments(out: Location, window: Window, n_windows: int, config: VisualsConfig) -> None:
    """Make a clip's folder from the segments of its windows.

    Args:
        window: any of the clip.
        n_windows: how many it has.

    Raises:
        UserError: a segment is missing or cannot be read.
    """
    parent = segments_folder(out, window)
    segments = [join(parent, f"{number:06d}") for number in range(n_windows)]
    with ExitStack() as stack:
        parts = [stack.enter_context(local_dir(segment)) for segment in segments]
        temporary = stack.enter_context(atomic_dir(clip_folder(out, window)))
        if (parts[0] / MESHES).exists():
            with pq.ParquetWriter(temporary / MESHES, MESH_SCHEMA, compression="zstd") as writer:
                for part in parts:
                    writer.write_table(pq.read_table(part / MESHES))
        if (parts[0] / VIDEO).exists():
            join_videos([part / VIDEO for part in parts], temporary / VIDEO)
            rows = [row for part in parts for row in _unpacked((part / STRIP_ROWS).read_bytes())]
            (temporary / STRIP).write_bytes(_strip(rows, config.panel))
        for part in parts:
            for path in [*part.glob("frame*"), *part.glob(POSTER)]:
                shutil.copyfile(path, temporary / path.name)
    for segment in segments:
        delete_dir(segment)


def _strip(rows: Sequence[list[Panel]], panel: int) -> bytes:
    return _jpeg(strip(rows, panel), STRIP_QUALITY, subsampling=0)


def _jpeg(image: RgbImage, quality: int, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=quality, **options)
    return buffer.getvalue()


def _packed(rows: Sequence[list[Panel]]) -> bytes:
    """Rows of panels as bytes; rows of one strip have the same labels."""
    arrays = {f"{r}/{p}": panel.image for r, row in enumerate(rows) for p, panel in enumerate(row)}
    labels = [panel.label for panel in rows[0]] if rows else []
    buffer = io.BytesIO()
    np.savez(buffer, labels=np.array(labels, dtype=np.str_), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpacked(data: bytes) -> list[list[Panel]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        labels = arrays["labels"].tolist()
        count = (len(arrays.files) - 1) // max(1, len(labels))
        return [[Panel(label, arrays[f"{r}/{p}"]) for p, label in enumerate(labels)] for r in range(count)]
