"""Every key of preprocessing's settings changes what it says."""

from __future__ import annotations

import shutil
import types
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipelines import preprocess as program
from pipelines.actor_pool import pool_for
from pipelines.clip_stages import (
    CROP,
    DOWNLOAD,
    LANDMARKS,
    STAGES,
    WRITE,
    FindLandmarks,
    StageRunner,
    Video,
    items_of,
    tables_of,
)
from pipelines.shared_folder import Probe
from safa.config import parse_settings
from safa.config.preprocess import PreprocessConfig
from safa.data.clip_maker import add_landmarks, check_clip, crop_clip, needs_network, write_piece
from safa.data.clip_store import ClipInfo, ClipStore
from safa.data.detectors import Face
from safa.data.detectors import loading as detector_loading
from safa.data.detectors.face_alignment import LANDMARK_FILE, LibraryDetector, LibraryLandmarks
from safa.data.download import retry as downloads
from safa.data.download.retry import downloaded, make_downloader
from safa.data.download.ytdlp import YtDlpDownloader
from safa.data.face_tracks import find_face_tracks, list_tracked_clips, raw_videos, write_tracks
from safa.data.images import decode_image
from safa.data.landmarks import Landmarks
from safa.data.shards import ShardWriter, commit_index, gather_index
from safa.data.sources import list_jobs
from safa.data.video import write_video
from safa.errors import ClipError, FailureCode, UserError
from safa.files import Entry
from tests.contract.wires.table import ABSENT, Row, Table, are, check, falls, keys_of, with_key
from tests.contract.wires.world import FakeFan, Recorder, World, face, face_alignment, yt_dlp

FPS, LENGTH, HEIGHT, WIDTH = 25.0, 12, 80, 100  # of the video; its clip is frames 0 to 12
BOX = (20, 10, 80, 70)  # of the clip


def _world(world: World) -> Path:
    """A video with landmarks, two lists of clips in it, a folder of crops, another folder of landmarks."""

    def make() -> Path:
        folder = world.folder()
        noise = np.random.default_rng(3)
        frames = [noise.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(LENGTH)]
        points = np.stack([face(40 + n, 40, 20) for n in range(LENGTH)])
        header = "video_id,start,end,bbox,fps,width,height,partition,person_id\n"
        for name in ("videos", "other", "crops", "other-crops", "landmarks", "raw", "other-raw"):
            (folder / name).mkdir()
        for name in ("videos", "other", "crops", "raw"):
            write_video(folder / name / "take.mp4", iter(frames), FPS)
        np.save(folder / "videos" / "take.landmarks.npy", points)
        np.save(folder / "crops" / "take.landmarks.npy", points)
        np.save(folder / "landmarks" / "take.landmarks.npy", points + 2)
        write_video(folder / "other-crops" / "clip.mp4", iter(frames), FPS)
        write_video(folder / "other-raw" / "video.mp4", iter(frames), FPS)
        box = "-".join(map(str, BOX))
        for name, person in (("list.csv", "ann"), ("other.csv", "ben")):
            line = f"take,0,{LENGTH},{box},{FPS:g},{WIDTH},{HEIGHT},train,{person}\n"
            (folder / name).write_text(header + line)
        (folder / "pngs" / "series").mkdir(parents=True)
        for n in range(6):
            Image.fromarray(frames[n][:48, :48]).save(folder / "pngs" / "series" / f"{n:07d}.png")
        for name in ("weights", "other-weights"):
            (folder / name).mkdir()
            for file in ("blazeface.pth", "anchors.npy", "s3fd-619a316812.pth"):
                (folder / name / file).write_bytes(b"x")
                if file.endswith(".pth"):
                    torch.save({name: torch.zeros(1)}, folder / name / file)
            fan = FakeFan()
            with torch.no_grad():
                fan.gain.fill_(1.0 if name == "weights" else 2.0)
            torch.save(fan.state_dict(), folder / name / LANDMARK_FILE)
        return folder

    made: Path = world.once("preprocess", make)
    return made


def settings(world: World, key: str, value: Any, changes: dict[str, Any]) -> PreprocessConfig:
    """Settings with one key changed; the key's branch says which source they have."""
    folder = _world(world)
    detector = {"name": "sfd", "weights": str(folder / "weights")}
    sources: dict[str, dict[str, Any]] = {
        "VideosSource": {"kind": "videos", "folder": str(folder / "raw"), "detector": detector},
        "ClipsSource": {"kind": "clips", "folder": str(folder / "crops")},
        "MetadataSource": {
            "kind": "metadata",
            "csv": str(folder / "list.csv"),
            "videos": str(folder / "videos"),
        },
    }
    url = {"kind": "url", "url": f"file://{folder}/videos/{{video_id}}.mp4"}
    source = next((each for name, each in sources.items() if f"source[{name}]" in key), None)
    source = dict(source or sources["MetadataSource"])
    if "download" in key:
        source["download"] = {"kind": "yt_dlp"} if "YtDlp" in key else url
        source["videos"] = str(world.root / "downloads")
    data: dict[str, Any] = {
        "source": source,
        "out": str(world.root / "preprocess-out"),
        "size": 32,
        "min_frames": 2,
        "min_box": 8,
    }
    if "FaceAlignment" in key:
        data["landmarks"] = {
            "kind": "face_alignment",
            "detector": detector,
            "weights": str(folder / "weights"),
        }
    for name, each in (*changes.items(), (key, value)):
        each = each(world) if callable(each) else each
        data = with_key(data, name, str(each) if isinstance(each, Path) else each)
    return parse_settings(data, PreprocessConfig, "test")


# ---- what is seen -----------------------------------------------------------------------------------------


def _job(config: PreprocessConfig) -> Any:
    listing = program.list_inputs(config)
    assert len(listing.jobs) == 1
    return listing.jobs[0]


@dataclass(frozen=True)
class _Stored:
    """The one clip of a data set."""

    info: ClipInfo
    images: list[bytes]
    landmarks: np.ndarray
    pieces: list[int]  # frames in each row group


def _clip(world: World, config: PreprocessConfig) -> _Stored:
    """Make and store the clip."""

    def detector(frames: Any) -> Landmarks:
        return Landmarks(np.full((len(frames), 68, 2), 5, np.float32), np.full(len(frames), 0.5, np.float32))

    folder = world.folder()
    with ShardWriter(folder) as shard:
        for piece in crop_clip(_job(config), config):
            (found,) = add_landmarks([piece], detector, 64) if needs_network(config) else (piece,)
            write_piece(shard, found)
    for refused in gather_index(folder, partial(check_clip, config)):
        raise refused.error
    commit_index(folder)
    store = ClipStore(folder)
    (path,) = (folder / "shards").iterdir()
    groups = pq.read_metadata(path)
    return _Stored(
        store.info(0),
        store.encoded_frames(0, range(store.n_frames(0))),
        store.landmarks(0),
        [groups.row_group(number).num_rows for number in range(groups.num_row_groups)],
    )


def kinds_of_jobs(world: World, config: PreprocessConfig) -> list[Any]:
    """Clip ids; of raw videos, videos."""
    if config.source.kind == "videos":
        return [entry.name for entry in raw_videos(config.source)[0]]
    return [job.clip_id for job in program.list_inputs(config).jobs]


def split_of_job(world: World, config: PreprocessConfig) -> str:
    if config.source.kind != "videos":
        return str(_job(config).split)
    folder = world.folder()
    write_tracks(folder, _tracks(config))
    (job,) = list_tracked_clips(config.source, raw_videos(config.source)[0], folder).jobs
    return job.split


def _entry(path: Path) -> Entry:
    return Entry(path.name, str(path), is_folder=False)


def held_out_videos(world: World, config: PreprocessConfig) -> int:
    """Of ten videos of nobody knows whom."""
    folder = world.folder()
    tracks = _tracks(config)
    for number in range(10):
        write_tracks(folder, replace(tracks, video=f"v{number}.mp4"))
    videos = [_entry(folder / f"v{number}.mp4") for number in range(10)]
    return sum(job.split == "test" for job in list_tracked_clips(config.source, videos, folder).jobs)


def held_out_clips(world: World, config: PreprocessConfig) -> int:
    """Of ten clips of ten people."""
    folder = world.folder()
    for number in range(10):
        (folder / f"p{number}#v#000000#000012.mp4").touch()
    source = config.source.model_copy(update={"folder": folder})
    return sum(job.split == "test" for job in list_jobs(source).jobs)


def people_of_twins(world: World, config: PreprocessConfig) -> int:
    """In two videos of faces that a network would take for the same one."""

    def embed(self: Any, frame: Any, faces: Any) -> np.ndarray:
        return np.ones((len(faces), 128), np.float32)

    folder = world.folder()
    raw = config.source.folder
    with patch.multiple(detector_loading.DlibEmbedder, __init__=lambda self: None, __call__=embed):
        embedder = detector_loading.load_embedder(config.source)
        tracks = find_face_tracks(raw / "take.mp4", config.source, config.fps, _Sees(), embedder)
    for name in ("one.mp4", "two.mp4"):
        write_tracks(folder, replace(tracks, video=name))
    videos = [_entry(folder / name) for name in ("one.mp4", "two.mp4")]
    return len({job.person_id for job in list_tracked_clips(config.source, videos, folder).jobs})


def folder_of_video(world: World, config: PreprocessConfig) -> str:
    return Path(_job(config).video).parent.name


def _run(config: PreprocessConfig, *stages: str) -> list[Any]:
    """What comes of the one clip in these stages."""
    block = pa.concat_tables(tables_of([Video((_job(config),))]))
    return [item for table in StageRunner(config, stages)(block) for item in items_of(table)]


def out_folder(world: World, config: PreprocessConfig) -> str:
    _run(config, CROP, WRITE)
    path = next(config.out.rglob("*.parquet"))
    shutil.rmtree(config.out)
    return path.relative_to(world.root).parts[0]


def length(world: World, config: PreprocessConfig) -> tuple[int, float]:
    info = _clip(world, config).info
    return info.n_frames, info.fps


def frame_size(world: World, config: PreprocessConfig) -> tuple[int, ...]:
    return decode_image(_clip(world, config).images[0]).shape


def frame_format(world: World, config: PreprocessConfig) -> bytes:
    return _clip(world, config).images[0][:4]


def frame_bytes(world: World, config: PreprocessConfig) -> int:
    return len(_clip(world, config).images[0])


def lengths_of_rows(world: World, config: PreprocessConfig) -> list[int]:
    return _clip(world, config).pieces


def middle_of_face(world: World, config: PreprocessConfig) -> list[float | None]:
    """Along x, of each stored frame, px of the video (the box is 60 px, the frame 32)."""
    middle = _clip(world, config).landmarks[..., 0].mean(1) * (60 / 32) + BOX[0]
    return [None if np.isnan(x) else round(float(x), 1) for x in middle]


def code(world: World, config: PreprocessConfig) -> str:
    try:
        _clip(world, config)
    except ClipError as error:
        return str(error.code)
    return ""


def codes_of_maker(world: World, config: PreprocessConfig) -> list[str]:
    """Of the stages that make clips, with whatever gets its video."""
    config = config.model_copy(update={"out": world.folder()})
    items = _run(config, DOWNLOAD, CROP, WRITE)
    return [str(getattr(item, "code", "")) for item in items]


def landmarks_of_maker(world: World, config: PreprocessConfig) -> str:
    name = "NoneType"
    if any(LANDMARKS in operator.stages for operator in program.operators(config)):
        with face_alignment():
            name = type(FindLandmarks(config)._detector).__name__
    kind = middle_of_face(world, config)[0]
    return f"{name} {kind is not None}"


# ---- downloads


class _Fails:
    """A host that always is too slow."""

    def __init__(self) -> None:
        self.count = 0

    def get(self, video_id: str, part: Path) -> None:
        self.count += 1
        raise ClipError(FailureCode.TIMEOUT, "slow")


def _failing(config: PreprocessConfig) -> tuple[int, list[float]]:
    host, pauses = _Fails(), []
    with (
        patch.object(downloads.random, "random", lambda: 0.0),
        pytest.raises(ClipError),
        downloaded("none", config.source, host, pauses.append),
    ):
        pass
    return host.count, pauses


def attempts(world: World, config: PreprocessConfig) -> int:
    return _failing(config)[0]


def pauses(world: World, config: PreprocessConfig) -> list[float]:
    return _failing(config)[1]


def kept(world: World, config: PreprocessConfig) -> bool:
    """Whether the video is there when its clips are made."""

    class Copies:
        def get(self, video_id: str, part: Path) -> None:
            part.write_bytes((_world(world) / "videos" / "take.mp4").read_bytes())

    source = config.source.model_copy(update={"videos": world.folder()})
    with downloaded("take", source, Copies()) as path:
        assert path.is_file()
    return (source.videos / "take.mp4").is_file()


def downloader(world: World, config: PreprocessConfig) -> str:
    with yt_dlp():
        return type(make_downloader(config.source.download)).__name__


def opened(world: World, config: PreprocessConfig) -> tuple[str, float]:
    """Address and patience of a request."""
    asked = Recorder()
    with (
        patch.object(urllib.request.OpenerDirector, "open", asked),
        pytest.raises((ClipError, AttributeError, TypeError)),
    ):
        make_downloader(config.source.download).get("take", world.root / "part.mp4")
    (request,), options = asked.first
    return request.full_url, options["timeout"]


def yt_dlp_option(name: str) -> Callable[..., Any]:
    def observed(world: World, config: PreprocessConfig) -> Any:
        with yt_dlp() as made:
            make_downloader(config.source.download).get("take", world.root / "part.mp4")
        return made[0].get(name)

    observed.__name__ = f"yt_dlp_{name}"
    return observed


def sleep_before(world: World, config: PreprocessConfig) -> float:
    slept: list[float] = []
    with yt_dlp():
        YtDlpDownloader(config.source.download, slept.append).get("take", world.root / "part.mp4")
    return slept[0]


# ---- detection


class _Sees:
    """Two faces that move: one from frame 0 to 5 and 8 to 11, a small one at the left edge."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.side = 0
        self._number = 0

    def detect(self, frames: Any) -> list[tuple[Face, ...]]:
        self.batches.append(len(frames))
        self.side = min(frames[0].shape[:2])
        scale = self.side / HEIGHT
        found = []
        for _ in frames:
            n, self._number = self._number, self._number + 1
            large = Face(30 + 2 * n, 20, 60 + 2 * n, 50, 0.9)
            edge = Face(0.2, 10, 12, 22, 0.8)
            faces = ([large] if not 6 <= n < 8 else []) + [edge]
            found.append(tuple(face.scaled(scale, scale) for face in faces))
        return found


def _tracks(config: PreprocessConfig, sees: _Sees | None = None) -> Any:
    video = Path(raw_videos(config.source)[0][0].location)
    return find_face_tracks(video, config.source, config.fps, sees or _Sees())


def cut_in_two(world: World, config: PreprocessConfig) -> list[tuple[int, int]]:
    """The face's tracks in a video that turns from dark to bright at frame 6."""
    folder = world.folder()
    shades = (np.full((HEIGHT, WIDTH, 3), 20 if n < 6 else 230, np.uint8) for n in range(LENGTH))
    write_video(folder / "cut.mp4", shades, FPS)
    video = folder / "cut.mp4"

    class Sees:
        def detect(self, frames: Any) -> list[tuple[Face, ...]]:
            return [(Face(30, 20, 60, 50, 0.9),) for _ in frames]

    found = find_face_tracks(video, config.source, config.fps, Sees())
    return [(segment.start, segment.end) for segment in found.segments]


TRACKS = {
    "source[VideosSource].face_tracks.scene_cut": None,  # the video is noise
    "source[VideosSource].face_tracks.min_frames": 4,
    "source[VideosSource].face_tracks.min_size": 8,
    "source[VideosSource].face_tracks.min_iou": 0.1,
}


def segments(world: World, config: PreprocessConfig) -> list[tuple[int, int, str]]:
    """Stretches of the large face: start, end, and why they are no clips."""
    found = _tracks(config).segments
    return [(s.start, s.end, s.code) for s in found if s.score > 0.85]


def edge_face(world: World, config: PreprocessConfig) -> list[str]:
    return [segment.code for segment in _tracks(config).segments if segment.score < 0.85]


def width_of_box(world: World, config: PreprocessConfig) -> int:
    segment = next(s for s in _tracks(config).segments if s.box)
    return segment.box[2] - segment.box[0]


def frames_at_once(world: World, config: PreprocessConfig) -> int:
    sees = _Sees()
    _tracks(config, sees)
    return max(sees.batches)


def side_shown(world: World, config: PreprocessConfig) -> int:
    sees = _Sees()
    _tracks(config, sees)
    return sees.side


def _detector_settings(config: PreprocessConfig) -> dict[str, Any]:
    """What the package's detector is made with, and how many frames it gets at once."""
    frames = [np.zeros((16, 16, 3), np.uint8)] * 20
    with face_alignment([[2, 2, 10, 10, 0.9]]) as made:
        if config.source.kind == "videos":
            LibraryDetector(config.source.detector).detect(frames)
        else:
            nothing = np.zeros((20, 68, 2), np.float32)
            with patch.object(LibraryLandmarks, "landmarks", lambda _, frames, faces: nothing[: len(frames)]):
                LibraryLandmarks(config.landmarks)(frames)
    return made[0]


def detector_setting(name: str) -> Callable[..., Any]:
    def observed(world: World, config: PreprocessConfig) -> Any:
        found = _detector_settings(config)[name]
        # The package gets the weights from memory: ours are named by their folder.
        return list(torch.load(found, weights_only=True)) if name == "path_to_detector" else found

    observed.__name__ = f"detector_{name}"
    return observed


class _Network(FakeFan):
    seen: ClassVar[list[Any]] = []

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        _Network.seen.append((float(self.gain), len(image)))
        return super().forward(image)


def _landmarked(config: PreprocessConfig) -> tuple[Landmarks, list[Any]]:
    """A large face in the corner, and a small one in the middle."""
    faces = [[0.0, 0.0, 12.0, 12.0, 0.7], [13.0, 13.0, 19.0, 19.0, 0.9]]
    _Network.seen = []
    with face_alignment(faces), patch("face_alignment.models.FAN", _Network):
        found = LibraryLandmarks(config.landmarks)([np.zeros((32, 32, 3), np.uint8)] * 2)
    return found, _Network.seen


def score_of_chosen(world: World, config: PreprocessConfig) -> float:
    return round(float(_landmarked(config)[0].scores[0]), 1)


def passes(world: World, config: PreprocessConfig) -> int:
    return len(_landmarked(config)[1])


def device_of_network(world: World, config: PreprocessConfig) -> str:
    with face_alignment():
        return str(LibraryLandmarks(config.landmarks)._network.gain.device)


class _Near:
    """Sees one face at one place, and remembers which frames it has searched as a whole."""

    def __init__(self) -> None:
        self._number, self.whole = 0, list[int]()

    def detect(self, frames: Any) -> list[Any]:
        self.whole.append(self._number)
        self._number += 1
        return [(Face(10, 10, 40, 40, 0.9),)]

    def near(self, frame: Any, face: Face) -> tuple[Face, ...]:
        self._number += 1
        return (face,)


def whole_searches(world: World, config: PreprocessConfig) -> list[int]:
    """Frames that are searched as a whole."""
    sees = _Near()
    video = Path(raw_videos(config.source)[0][0].location)
    find_face_tracks(video, config.source, config.fps, sees)
    return sees.whole


def score_by_dlib(world: World, config: PreprocessConfig) -> float:
    """Of a large face in the corner and a small one in the middle."""
    faces = (Face(0, 0, 12, 12, 0.7), Face(13, 13, 19, 19, 0.9))
    nothing = np.zeros((1, 68, 2), np.float32)
    with patch.multiple(
        detector_loading,
        DlibDetector=lambda *_: types.SimpleNamespace(detect=lambda frames: [faces for _ in frames]),
        DlibLandmarks=lambda: types.SimpleNamespace(landmarks=lambda frames, found: nothing),
    ):
        found = detector_loading.load_landmark_detector(config.landmarks)  # type: ignore[arg-type]
        return round(float(found([np.zeros((32, 32, 3), np.uint8)]).scores[0]), 1)


def marked_by_sidecar(world: World, config: PreprocessConfig) -> int:
    """Frames that have landmarks before any network has seen them."""
    (job, *_) = list_jobs(config.source).jobs
    return sum(len(piece.images) for piece in crop_clip(job, config) if piece.landmarks is not None)


def gain_of_network(world: World, config: PreprocessConfig) -> float:
    return float(_landmarked(config)[1][0][0])


# ---- the program


class _Data:
    """In place of a Ray data set: remembers what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def map_batches(self, worker: Any, **options: Any) -> _Data:
        self.calls.append(options)
        return self

    map = map_batches


def ray_options(stage: str, name: str) -> Callable[..., Any]:
    """What the tasks or actors of a stage ask Ray for."""

    def observed(world: World, config: PreprocessConfig) -> Any:
        data = _Data()
        program.graph(config, data, 9, [Probe("out", "probe")])
        operators = program.operators(config)
        assert [s for operator in operators for s in operator.stages] == [
            s for s in STAGES if any(s in operator.stages for operator in operators)
        ]
        place = next(n for n, operator in enumerate(operators) if stage in operator.stages)
        options = data.calls[place]
        pool = options["compute"]
        found = {"most": getattr(pool, "max_size", None) or getattr(pool, "size", None)}
        return (found | {"least": getattr(pool, "min_size", None)} | options)[name]

    observed.__name__ = f"ray_{stage}_{name}"
    return observed


def frames_per_call(world: World, config: PreprocessConfig) -> int:
    """Most frames that the landmark detector gets at once."""
    seen: list[int] = []

    def detector(frames: Any) -> Landmarks:
        seen.append(len(frames))
        return Landmarks(np.zeros((len(frames), 68, 2), np.float32), np.zeros(len(frames), np.float32))

    with patch("pipelines.clip_stages.make_detector", lambda config: detector):
        list(FindLandmarks(config)(crop_clip(_job(config), config)))
    return max(seen)


def options_of_finder(name: str) -> Callable[..., Any]:
    """What the actors that find face tracks ask Ray for."""

    def observed(world: World, config: PreprocessConfig) -> Any:
        data = _Data()
        config = config.model_copy(update={"out": world.folder()})
        with (
            patch.object(program, "_rows", lambda rows: data),
            patch.object(program, "ray_session", nullcontext),
            patch.object(program, "check_room", lambda *_: None),
            patch.object(program, "room_for", lambda *_: nullcontext()),
            patch.object(program, "pool_for", lambda *asked: pool_for(*asked[:4], 9)),
            patch.object(program, "_progress", lambda *_: ()),
            ExitStack() as stack,
        ):
            quarantine = program.Quarantine(config.out / "quarantine")
            program._with_face_tracks(config, config.source, frozenset(), quarantine, stack)
        (options,) = data.calls
        return ({"most": options["compute"].max_size} | options)[name]

    observed.__name__ = f"finder_{name}"
    return observed


def tried_again(world: World, config: PreprocessConfig) -> int:
    """Clips that are made in a folder in which the only clip was refused before."""
    made: list[int] = []

    def make(config: Any, jobs: Any, quarantine: Any) -> str:
        made.append(len(jobs))
        return ""

    config = config.model_copy(update={"out": world.folder()})
    from safa.errors import Failure

    program.Quarantine(config.out / "quarantine").add(
        [Failure(_job(config).clip_id, FailureCode.TOO_SMALL, "test", "preprocess")]
    )
    with (
        patch.object(program, "_make", make),
        patch.object(program, "ray_session", nullcontext),
        patch.object(program, "_summarise", lambda *_: None),
        patch.object(program, "_raise_if_failed", lambda *_: None),
    ):
        program.preprocess(config)
    return sum(made)


def complains(world: World, config: PreprocessConfig) -> bool:
    """Of one unexpected failure in five."""
    summary = program.Summary(5, 4, 1, 0, {str(FailureCode.UNEXPECTED): 1})
    try:
        program._raise_if_failed(config, summary, "", program.Quarantine(world.folder()))
    except UserError:
        return True
    return False


def mixes(world: World, config: PreprocessConfig) -> bool:
    out = world.folder() / "out"
    program._record_settings(config.model_copy(update={"out": out, "size": 64}))
    (out / "face_tracks").mkdir()
    (out / "face_tracks" / "video.json").touch()  # output: refusals alone bind no folder
    try:
        program._check_settings(config.model_copy(update={"out": out}))
    except UserError:
        return False
    return True


METADATA, VIDEOS, CLIPS = (f"source[{name}Source]" for name in ("Metadata", "Videos", "Clips"))
FOUND = "landmarks[FaceAlignmentLandmarks]"


def in_folder(name: str) -> Callable[[World], Path]:
    return lambda world: _world(world) / name


def _download_rows(branch: str) -> Iterator[Row]:
    key = f"{METADATA}.download[{branch}]"
    yield Row(f"{key}.keep", False, True, kept, are(False, True))
    yield Row(f"{key}.parallel", 3, 2, ray_options(DOWNLOAD, "most"), are(3, 2))
    yield Row(f"{key}.attempts", 1, 3, attempts, are(1, 3))
    yield Row(f"{key}.backoff_s", 1.0, 2.5, pauses, are([1.0, 2.0, 4.0], [2.5, 5.0, 10.0]))


def _detector_rows(key: str) -> Iterator[Row]:
    yield Row(f"{key}.name", "sfd", "blazeface", detector_setting("module"), are("sfd", "blazeface"))
    yield Row(
        *(f"{key}.weights", in_folder("weights"), in_folder("other-weights")),
        *(detector_setting("path_to_detector"), are(["weights"], ["other-weights"])),
    )
    yield Row(f"{key}.threshold", 0.5, 0.9, detector_setting("filter_threshold"), are(0.5, 0.9))
    yield Row(f"{key}.batch", 16, 7, detector_setting("batches"), are([16, 4], [7, 7, 6]))
    yield Row(f"{key}.device", "cpu", "meta", detector_setting("device"), are("cpu", "meta"))


def _rows() -> Iterator[Row]:  # noqa: PLR0915 (a table: one statement a row)
    yield Row(
        *("source.kind", {"kind": "clips"}, {"kind": "videos"}, kinds_of_jobs),
        *(are(["take"], ["take.mp4"]),),
    )
    yield Row(
        *(f"{METADATA}.csv", in_folder("list.csv"), in_folder("other.csv"), kinds_of_jobs),
        are(["ann#take#000000#000012"], ["ben#take#000000#000012"]),
    )
    yield Row(
        *(f"{METADATA}.videos", in_folder("videos"), in_folder("other"), folder_of_video),
        are("videos", "other"),
    )
    yield Row(
        *(f"{METADATA}.download.kind", {"kind": "url", "url": "http://x/{video_id}"}, {"kind": "yt_dlp"}),
        *(downloader, are("HttpDownloader", "YtDlpDownloader")),
    )
    yield Row(
        *(f"{METADATA}.download[UrlDownload].url",),
        *(lambda w: f"file://{_world(w)}/videos/{{video_id}}.mp4", "file:///nowhere/{video_id}.mp4"),
        *(codes_of_maker, are([""], ["unavailable"])),
        # Landmarks lie elsewhere, since a download has none beside it.
        {"landmarks": lambda w: {"kind": "none"}},
    )
    yield Row(
        *(f"{METADATA}.download[UrlDownload].url", "http://one/{video_id}", "http://two/{video_id}.mp4"),
        *(opened, are(("http://one/take", 30.0), ("http://two/take.mp4", 30.0))),
    )
    yield Row(
        *(f"{METADATA}.download[UrlDownload].timeout_s", 30.0, 7.0, opened),
        *(are(("http://one/take", 30.0), ("http://one/take", 7.0)),),
        {f"{METADATA}.download[UrlDownload].url": "http://one/{video_id}"},
    )
    yield from _download_rows("UrlDownload")
    yield from _download_rows("YtDlpDownload")
    options = [
        ("timeout_s", 30.0, 7.0, "socket_timeout", 30.0, 7.0),
        (
            "page",
            "https://a/{video_id}",
            "https://b/{video_id}",
            "pages",
            ["https://a/take"],
            ["https://b/take"],
        ),
        ("format", "best", "worst", "format", "best", "worst"),
        ("proxy", ABSENT, "socks5://x", "proxy", None, "socks5://x"),
        ("rate_limit_mb", ABSENT, 2.0, "ratelimit", None, 2.0 * 2**20),
    ]
    for name, one, other, option, first, second in options:
        key = f"{METADATA}.download[YtDlpDownload].{name}"
        yield Row(key, one, other, yt_dlp_option(option), are(first, second))
    yield Row(
        *(f"{METADATA}.download[YtDlpDownload].cookies", ABSENT, in_folder("list.csv")),
        *(yt_dlp_option("cookiefile"), lambda a, b: a is None and b.endswith("list.csv")),
    )
    yield Row(
        *(f"{METADATA}.download[YtDlpDownload].sleep_s", [0.0, 0.0], [2.0, 3.0], sleep_before),
        lambda a, b: a == 0 and 2 <= b <= 3,
    )
    yield Row(
        *(f"{VIDEOS}.folder", in_folder("raw"), in_folder("other-raw"), kinds_of_jobs),
        are(["take.mp4"], ["video.mp4"]),
    )
    yield Row(f"{VIDEOS}.split", "train", "test", split_of_job, are("train", "test"), TRACKS)
    # There is one person only, who is not held out.
    yield Row(f"{VIDEOS}.split", "auto", "test", split_of_job, are("train", "test"), TRACKS)
    yield Row(f"{VIDEOS}.held_out", 0.1, 0.6, held_out_videos, are(1, 6), TRACKS)
    yield Row(f"{VIDEOS}.identity", None, "dlib", people_of_twins, are(2, 1), TRACKS)
    yield from _detector_rows(f"{VIDEOS}.detector")
    yield Row(f"{VIDEOS}.detector.batch", 16, 5, frames_at_once, are(12, 5))
    tracks, whole = f"{VIDEOS}.face_tracks", [(0, 12, "")]
    # In 12 frames the face moves by 22 px, so that its last place still overlaps the first by a tenth.
    yield Row(f"{tracks}.gap", 5, 1, segments, are(whole, [(0, 6, ""), (8, 12, "")]), TRACKS)
    yield Row(
        *(f"{tracks}.min_iou", 0.1, 0.6, segments),
        # 30 px that move by 2 a frame overlap by 60 % up to frame 3.
        *(are(whole, [(0, 4, ""), (4, 6, "too_short"), (8, 12, "")]), TRACKS),
    )
    yield Row(f"{tracks}.min_frames", 4, 13, segments, are(whole, [(0, 12, "too_short")]), TRACKS)
    yield Row(f"{tracks}.max_frames", 100, 6, segments, are(whole, [(0, 6, ""), (8, 12, "")]), TRACKS)
    yield Row(f"{tracks}.search_every", 1, 4, whole_searches, are(list(range(12)), [0, 4, 8]))
    yield Row(f"{tracks}.min_size", 8, 70, segments, are(whole, [(0, 12, "too_small")]), TRACKS)
    # The union of all places is 52 px wide.
    yield Row(f"{tracks}.increase", 0.0, 0.1, width_of_box, are(52, 62), TRACKS)
    yield Row(f"{tracks}.scene_cut", None, 0.4, cut_in_two, are([(0, 12)], [(0, 6), (6, 12)]))
    yield Row(f"{tracks}.drop_border", True, False, edge_face, are(["border"], [""]), TRACKS)
    yield Row(f"{VIDEOS}.short_side", 360, 64, side_shown, are(80, 64))
    yield Row(
        *(f"{CLIPS}.folder", in_folder("crops"), in_folder("other-crops"), kinds_of_jobs),
        are(["take"], ["clip"]),
    )
    yield Row(f"{CLIPS}.split", "train", "test", split_of_job, are("train", "test"))
    yield Row(f"{CLIPS}.split", "train", "auto", held_out_clips, are(0, 1))
    yield Row(f"{CLIPS}.held_out", 0.1, 0.6, held_out_clips, are(1, 6), {f"{CLIPS}.split": "auto"})
    yield Row(
        *(f"{CLIPS}.fps", 25.0, 12.5, length, are((6, 25.0), (12, 25.0))),
        {f"{CLIPS}.folder": in_folder("pngs"), "landmarks": lambda w: {"kind": "none"}},
    )
    yield Row(
        "out", lambda w: w.root / "out-a", lambda w: w.root / "out-b", out_folder, are("out-a", "out-b")
    )
    yield Row(
        *("landmarks.kind", {"kind": "sidecar"}, {"kind": "none"}, landmarks_of_maker),
        are("NoneType True", "NoneType False"),
    )
    yield Row(
        *("landmarks.kind", {"kind": "none"}, _face_alignment, landmarks_of_maker),
        are("NoneType False", "LibraryLandmarks True"),
    )
    yield Row(
        *("landmarks[SidecarLandmarks].folder", ABSENT, in_folder("landmarks"), middle_of_face),
        are([40.0 + n for n in range(12)], [42.0 + n for n in range(12)]),
        {"landmarks": lambda w: {"kind": "sidecar"}},
    )
    yield from _detector_rows(f"{FOUND}.detector")
    yield Row(
        f"{FOUND}.weights", in_folder("weights"), in_folder("other-weights"), gain_of_network, are(1.0, 2.0)
    )
    yield Row(f"{FOUND}.detector.device", "cpu", "meta", device_of_network, are("cpu", "meta"))
    yield Row(f"{FOUND}.choose", "nearest", "largest", score_of_chosen, are(0.9, 0.7))
    yield Row(
        *("landmarks[DlibLandmarksConfig].choose", "nearest", "largest", score_by_dlib, are(0.9, 0.7)),
        {"landmarks": lambda w: {"kind": "dlib"}},
    )
    yield Row("landmarks.kind", {"kind": "auto"}, {"kind": "dlib"}, marked_by_sidecar, are(12, 0))
    yield Row(f"{FOUND}.flip", False, True, passes, are(1, 2))
    yield Row("size", 32, 48, frame_size, are((32, 32, 3), (48, 48, 3)))
    yield Row("fps", 25.0, 12.5, length, are((12, 25.0), (6, 12.5)))
    yield Row(
        *("fps", 25.0, 12.5, middle_of_face),
        # At half the rate every second row of the sidecar is meant.
        are([40.0 + n for n in range(12)], [40.0, 42.0, 44.0, 46.0, 48.0, 50.0]),
    )
    yield Row(
        "encoding.format", "jpeg", "png", frame_format, lambda a, b: a[:2] == b"\xff\xd8" and b[1:] == b"PNG"
    )
    yield Row("encoding.quality", 95, 30, frame_bytes, falls)
    yield Row("min_frames", 12, 13, code, are("", "too_short"))
    yield Row("min_box", 60, 61, code, are("", "too_small"))
    yield Row("max_outside", 0.5, 0.1, code, are("", "border"), {f"{METADATA}.csv": _half_outside})
    yield Row(
        *("tolerate_damage", 0.1, 0.9, code, are("decode", "")),
        {f"{METADATA}.videos": _damaged_videos},
    )
    yield Row("piece_frames", 128, 5, lengths_of_rows, are([12], [5, 5, 2]))
    yield Row("retry_quarantined", False, True, tried_again, are(0, 1))
    yield Row("max_unexpected", 0.2, 0.1, complains, are(False, True))
    yield Row("mix_settings", False, True, mixes, are(False, True))
    found = {"landmarks": lambda w: _face_alignment(w)}
    gpu = found | {"stages.landmarks.gpus": 0.5}
    for stage in (CROP, LANDMARKS, WRITE):
        yield Row(f"stages.{stage}.cpus", 1.0, 0.25, ray_options(stage, "num_cpus"), are(1.0, 0.25), gpu)
    downloads = {"source.download": lambda w: {"kind": "url", "url": "http://x/{video_id}"}}
    yield Row(
        *("stages.download.cpus", 0.1, 0.25, ray_options(DOWNLOAD, "num_cpus"), are(0.1, 0.25), downloads)
    )
    found_by = "stages.landmarks"
    yield Row(f"{found_by}.gpus", 0.5, 0.25, ray_options(LANDMARKS, "num_gpus"), are(0.5, 0.25), found)
    yield Row(f"{found_by}.actors", [1, 2], [2, 5], ray_options(LANDMARKS, "least"), are(1, 2), found)
    yield Row(f"{found_by}.actors", [1, 2], [2, 5], ray_options(LANDMARKS, "most"), are(2, 5), found)
    yield Row(f"{found_by}.batch", 64, 5, frames_per_call, are(12, 5), found)
    tracked = "stages.face_tracks"
    raw = {"source": _raw_videos}
    yield Row(f"{tracked}.cpus", 1.0, 0.5, options_of_finder("num_cpus"), are(1.0, 0.5), raw)
    yield Row(f"{tracked}.gpus", 0.5, 0.25, options_of_finder("num_gpus"), are(0.5, 0.25), raw)
    yield Row(f"{tracked}.actors", [1, 2], [2, 5], options_of_finder("most"), are(2, 5), raw)


def _face_alignment(world: World) -> dict[str, Any]:
    weights = str(_world(world) / "weights")
    return {"kind": "face_alignment", "detector": {"name": "sfd", "weights": weights}, "weights": weights}


def _raw_videos(world: World) -> dict[str, Any]:
    folder = _world(world)
    detector = {"name": "sfd", "weights": str(folder / "weights")}
    return {"kind": "videos", "folder": str(folder / "raw"), "detector": detector}


def _half_outside(world: World) -> Path:
    """A list whose box reaches 20 of 60 px over the edge."""
    path = _world(world) / "outside.csv"
    path.write_text((_world(world) / "list.csv").read_text().replace("20-10-80-70", "60-10-120-70"))
    return path


def _damaged_videos(world: World) -> Path:
    """The video with zeros in the place of a part of its pictures."""
    folder = world.folder()
    shutil.copytree(_world(world) / "videos", folder, dirs_exist_ok=True)
    data = (folder / "take.mp4").read_bytes()
    middle, length = len(data) // 2, len(data) // 4
    (folder / "take.mp4").write_bytes(data[:middle] + bytes(length) + data[middle + length :])
    return folder


TABLE = Table("preprocess", _rows(), {})


@pytest.mark.parametrize("row", TABLE.rows, ids=lambda row: row.name)
def test_wire(world: World, row: Row) -> None:
    def look(value: Any) -> Any:
        key = row.key
        if key == "source.kind":
            folder = _world(world) / ("crops" if value["kind"] == "clips" else "raw")
            detector = {"name": "sfd", "weights": str(_world(world) / "weights")}
            more = {"detector": detector} if value["kind"] == "videos" else {}
            return row.look(world, settings(world, "source", value | {"folder": str(folder)} | more, {}))
        return row.look(world, settings(world, key.removesuffix(".kind"), value, dict(row.changes or {})))

    check(world, row, look)


def test_every_key_has_a_row() -> None:
    known = list(keys_of(PreprocessConfig))
    assert len(known) > 60
    assert TABLE.missing(known) == []
    assert TABLE.unknown(known) == []
