"""How well and how fast dlib finds faces, where another program's landmarks lie beside.

Of each photo and video: the share of the frames with a face (there are landmarks) in which one is found; the
median distance of the 51 inner points from those landmarks, in distances of the outer eye corners; and, of
the tracker behind ``safa animate``, frames per CPU second. Then preprocessing of the raw videos, from file to
stored clips with landmarks, in frames per CPU second of this process and of the decoder that it starts.

Run: OMP_NUM_THREADS=1 python benchmarks/faces.py [--real DIR] [--size 512], on an otherwise idle machine.
``DIR/images`` holds photos, ``DIR/raw`` and ``DIR/clips256`` videos.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.clip_stages import CROP, LANDMARKS, WRITE, StageRunner, Stored, Video, items_of, tables_of
from safa.config.preprocess import DlibLandmarksConfig, FaceTrackConfig, PreprocessConfig, VideosSource
from safa.data.detectors.dlib_faces import DlibDetector, DlibIdentity, DlibLandmarks, missing
from safa.data.detectors.loading import load_detector, load_embedder
from safa.data.detectors.person_tracker import PersonTracker
from safa.data.face_tracks import find_face_tracks, list_tracked_clips, raw_videos, write_tracks
from safa.data.video import probe, read_frames
from safa.inference.photos import read_photo
from safa.metrics.landmarks import OUTER_EYE_CORNERS

JAW_POINTS = 17  # come first; detectors disagree about where a jaw ends
REAL = Path(__file__).parents[2] / "shared" / "real"
FASTEST = 40  # frames per CPU second that preprocessing should reach
CLOSEST = 0.05  # distance of landmarks that should not be passed


@dataclass(frozen=True)
class Found:
    """What was found in the frames of a file, in ``seconds`` of CPU.

    Attributes:
        shown: frames with a face.
        found: those of them in which one was found.
        distances: (found,) median distance of the inner points from the others' landmarks.
    """

    name: str
    shown: int
    found: int
    distances: NDArray[np.float64]
    seconds: float

    def line(self) -> str:
        rate = f"{self.shown / self.seconds:6.1f} frames/CPU s" if self.shown > 1 else ""
        distance = f"{np.median(self.distances):.2%}" if self.found else "none"
        return f"{self.name:24} {self.found:5} of {self.shown:5}   {distance:>7}   {rate}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, default=REAL, help="folder with images/, raw/ and clips256/")
    parser.add_argument(
        "--size", type=int, default=512, help="px, side of the frames that preprocessing stores"
    )
    asked = parser.parse_args()
    if missing() or not asked.real.is_dir():
        sys.stdout.write(f"skipped: {missing() or f'{asked.real} is not here'}\n")
        return 0
    networks = DlibDetector(), DlibLandmarks(), DlibIdentity()
    _warm_up(networks)
    results = [_look(path, networks) for path in sorted((asked.real / "images").glob("*.jpg"))]
    for folder in ("clips256", "raw"):
        results += [_look(path, networks) for path in sorted((asked.real / folder).glob("*.mp4"))]
    for result in results:
        print(result.line(), flush=True)
    shown, found = sum(each.shown for each in results), sum(each.found for each in results)
    print(f"faces found: {found} of {shown} frames (aim: all)")
    worst = max(float(np.median(each.distances)) for each in results if each.found)
    print(f"landmarks: the farthest file's median {worst:.2%} (aim: at most {CLOSEST:.0%})")
    _preprocessing(sorted((asked.real / "raw").glob("*.mp4")), asked.size)
    return 0


@contextmanager
def _cpu() -> Iterator[list[float]]:
    """Gives a list that has the block's CPU seconds afterwards, with those of processes that it started."""
    spent: list[float] = []
    before = sum(os.times()[:4])
    yield spent
    spent.append(sum(os.times()[:4]) - before)


# ---- finding -----------------------------------------------------------------------------------------------


def _warm_up(networks: tuple[DlibDetector, DlibLandmarks, DlibIdentity]) -> None:
    """Load all networks."""
    grey = np.full((300, 300, 3), 128, np.uint8)
    networks[0].detect([grey])
    networks[2].embeddings([grey], np.random.default_rng(0).uniform(100, 200, (1, 68, 2)).astype(np.float32))


def _look(path: Path, networks: tuple[DlibDetector, DlibLandmarks, DlibIdentity]) -> Found:
    """Follow the person of a photo or video, and compare with the landmarks beside it."""
    frames: Iterable[NDArray[np.uint8]]
    frames = [read_photo(path).pixels] if path.suffix == ".jpg" else list(read_frames(path))
    true = np.load(path.with_suffix(".landmarks.npy"), allow_pickle=False).reshape(-1, 68, 2)  # (T, 68, 2)
    with _cpu() as spent:
        seen = list(PersonTracker(*networks).follow(frames))
    has_face = np.isfinite(true).all(axis=(1, 2))
    pairs = [
        (each.points, points)
        for each, points, shown in zip(seen, true, has_face, strict=True)
        if shown and each is not None
    ]
    distances = np.array([_distance(*pair) for pair in pairs])
    return Found(f"{path.parent.name}/{path.stem}", int(has_face.sum()), len(pairs), distances, spent[0])


def _distance(found: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    left, right = (true[corner] for corner in OUTER_EYE_CORNERS)
    apart = np.linalg.norm(found - true, axis=1)[JAW_POINTS:]  # (68, 2) -> (51,)
    return float(np.median(apart) / np.linalg.norm(left - right))


# ---- preprocessing -----------------------------------------------------------------------------------------


def _preprocessing(videos: list[Path], size: int) -> None:
    total, cost = 0, 0.0
    for video in videos:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "videos"
            folder.mkdir()
            shutil.copyfile(video, folder / video.name)  # without the landmarks beside it
            tracks = FaceTrackConfig(min_size=64, increase=0.4)
            source = VideosSource(kind="videos", folder=folder, split="train", face_tracks=tracks)
            config = PreprocessConfig(
                source=source, out=Path(name) / "out", landmarks=DlibLandmarksConfig(kind="dlib"), size=size
            )
            config = config.model_copy(update={"min_box": 64})
            stored, seconds = _preprocessed(config, source)
        info = probe(video)
        parts = ", ".join(f"{part} {1000 * spent / stored:.1f} ms" for part, spent in seconds.items())
        rate = stored / sum(seconds.values())
        print(f"{video.stem:10} {info.width} x {info.height} px: {stored} frames, {rate:.1f}/CPU s ({parts})")
        total, cost = total + stored, cost + sum(seconds.values())
    every = FaceTrackConfig().search_every
    print(
        f"preprocessing into {size} px: {total / cost:.1f} frames per CPU second (aim: at least {FASTEST}); "
        f"every {every}th frame is searched as a whole, all get landmarks"
    )


def _preprocessed(config: PreprocessConfig, source: VideosSource) -> tuple[int, dict[str, float]]:
    """Make the clips of a folder; gives the number of their frames, and the CPU seconds of both parts."""
    tracks, (videos, _) = Path(str(config.out)) / "tracks", raw_videos(source)
    tracks.mkdir(parents=True)
    with _cpu() as finding:
        detector, embedder = load_detector(source.detector), load_embedder(source)
        for video in videos:
            path = Path(str(video.location))
            write_tracks(tracks, find_face_tracks(path, source, config.fps, detector, embedder))
    jobs = list_tracked_clips(source, videos, tracks).jobs
    with _cpu() as making:
        table = next(iter(tables_of([Video((job,)) for job in jobs])))
        made = [
            item for part in StageRunner(config, (CROP, LANDMARKS, WRITE))(table) for item in items_of(part)
        ]
    frames = sum(item.n_frames for item in made if isinstance(item, Stored))
    return frames, {"faces and who they are": finding[0], "crop, landmarks, write": making[0]}


if __name__ == "__main__":
    sys.exit(main())
