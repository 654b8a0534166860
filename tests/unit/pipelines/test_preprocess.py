"""Preprocessing without Ray: what is sent to workers, what a killed run leaves, the cost estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import preprocess
from pipelines.clip_stages import Video, items_of
from pipelines.operators import closed, fitted
from pipelines.shared_folder import Probe
from safa.config import Settings, dump_settings
from safa.config.preprocess import (
    DetectorConfig,
    DlibLandmarksConfig,
    FaceAlignmentLandmarks,
    LandmarkStage,
    MetadataSource,
    NoLandmarks,
    PoolStage,
    PreprocessConfig,
    StagesConfig,
    UrlDownload,
    VideosSource,
    YtDlpDownload,
)
from safa.cores import Machine
from safa.data.clip_store import ClipStore
from safa.data.download.retry import TRANSIT
from safa.data.sources import COLUMNS, list_jobs
from safa.errors import UserError
from safa.files import TEMPORARY

LINE = "video,0,75,10-10-90-90,25,128,96,train,someone"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreprocessConfig:
    """Settings whose paths are all relative, with one clip in the list."""
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text(",".join(COLUMNS) + f"\n{LINE}\n")
    Path("videos").mkdir()
    source = MetadataSource(
        kind="metadata",
        csv=Path("list.csv"),
        videos=Path("videos"),
        download=YtDlpDownload(kind="yt_dlp", cookies=Path("cookies.txt")),
    )
    detector = DetectorConfig(name="sfd", weights=Path("weights"))
    landmarks = FaceAlignmentLandmarks(kind="face_alignment", detector=detector, weights=Path("weights"))
    return PreprocessConfig(source=source, out=Path("out"), landmarks=landmarks)


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Settings):
        for _, field in value:
            yield from _paths(field)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _paths(item)


@pytest.mark.parametrize("ended", [True, False])
def test_face_tracks_of_a_run_that_made_nothing_do_not_bind_the_folder(
    config: PreprocessConfig, ended: bool
) -> None:
    """Those of a run that was stopped do: finding them takes long."""
    preprocess.record_settings(config.out, config.model_copy(update={"min_box": 99}), preprocess.NOT_HASHED)
    tracks = Path("out/face_tracks/video.json")
    tracks.parent.mkdir(parents=True)
    tracks.write_text("{}")
    if not ended:
        with pytest.raises(UserError, match="other settings"):
            preprocess._check_settings(config)
        assert tracks.exists()
        return
    Path("out/summary.json").write_text("{}")
    preprocess._check_settings(config)
    assert not tracks.exists()
    assert not Path("out/summary.json").exists()


class Recorder:
    """Stands for a Ray data set: keeps the rows, and what is to run on the workers."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def map_batches(self, stage: object, **options: Any) -> Recorder:
        self.sent = (stage, *options.get("fn_constructor_args", ()))
        return self

    map = map_batches


def test_workers_get_absolute_paths(config: PreprocessConfig) -> None:
    jobs = list_jobs(config.source).jobs  # type: ignore[arg-type]
    recorder = Recorder([])
    preprocess.graph(config, recorder, 9, [Probe("/out", "probe")])  # type: ignore[arg-type]
    sent = list(_paths(recorder.sent[3]))
    assert len(sent) == len(list(_paths(config))) == 6
    assert all(path.is_absolute() for path in sent)
    (table,) = preprocess.job_tables(config, jobs)
    (video,) = items_of(table)
    assert isinstance(video, Video)
    assert video.jobs[0].video == str(Path("videos/video.mp4").absolute())


def test_clips_of_a_downloaded_video_are_one_row_and_others_one_each(config: PreprocessConfig) -> None:
    jobs = list_jobs(config.source).jobs * 3  # type: ignore[arg-type]
    assert [len(items_of(table)) for table in preprocess.job_tables(config, jobs)] == [1]
    source = config.source.model_copy(update={"download": None})
    tables = preprocess.job_tables(config.model_copy(update={"source": source}), jobs)
    assert sum(len(items_of(table)) for table in tables) == 3


@pytest.mark.parametrize(("videos", "sizes"), [(20, {1}), (800, {4})])
def test_few_downloads_are_a_block_each_and_many_share_one(
    config: PreprocessConfig, videos: int, sizes: set[int]
) -> None:
    (job, *_) = list_jobs(config.source).jobs  # type: ignore[arg-type]
    jobs = [replace(job, clip_id=f"c{number}", video_id=f"v{number}") for number in range(videos)]
    tables = preprocess.job_tables(config, jobs)
    assert {len(items_of(table)) for table in tables} == sizes
    assert sum(len(items_of(table)) for table in tables) == videos


def test_workers_that_find_faces_get_absolute_paths(
    config: PreprocessConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("videos/a.mp4").touch()
    detector = DetectorConfig(name="sfd", weights=Path("weights"))
    source = VideosSource(kind="videos", folder=Path("videos"), detector=detector)
    config = config.model_copy(update={"source": source})
    recorders: list[Recorder] = []

    def rows(plain: list[dict[str, Any]]) -> Recorder:
        recorders.append(Recorder(plain))
        return recorders[-1]

    monkeypatch.setattr(preprocess, "_rows", rows)
    monkeypatch.setattr(preprocess, "ray_session", preprocess.ExitStack)
    checked: list[Any] = []
    monkeypatch.setattr(preprocess, "check_room", lambda *needs: checked.extend(needs))
    monkeypatch.setattr(preprocess, "room_for", lambda *_: preprocess.ExitStack())
    monkeypatch.setattr(preprocess, "_progress", lambda *_: iter(()))
    with preprocess.ExitStack() as stack:
        quarantine = preprocess.Quarantine(config.out / "quarantine")
        preprocess._with_face_tracks(config, source, frozenset(), quarantine, stack)
    assert [need.where for need in checked] == ["stages.face_tracks", "stages.landmarks"], (
        "of later stages, too"
    )
    (recorder,) = recorders
    assert recorder.rows == [{"video": str(Path("videos/a.mp4").absolute())}]
    assert all(path.is_absolute() for path in _paths(recorder.sent[1:]))


def test_incomplete_files_are_deleted_and_are_no_clips(config: PreprocessConfig) -> None:
    folders = [
        "out/clips/shards",
        "out/clips/index",
        "out/face_tracks",
        "out/quarantine",
        "videos",
        f"videos/{TRANSIT}",
    ]
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{TEMPORARY}0123.parquet").touch()
    with pytest.raises(UserError, match="no data set here"):
        ClipStore(config.out / "clips")
    (config.out / "clips" / "shards" / "a.parquet").touch()
    preprocess._clean_up(config)
    left = [path.name for folder in folders for path in Path(folder).iterdir() if path.is_file()]
    assert left == ["a.parquet"]


def test_a_source_without_downloads_is_left_alone(config: PreprocessConfig) -> None:
    source = config.source.model_copy(update={"download": None})
    own = Path("videos", f"{TEMPORARY}mine.mp4")
    own.touch()
    preprocess._clean_up(config.model_copy(update={"source": source}))
    assert own.exists()


def test_the_cost_estimate_writes_nothing(
    config: PreprocessConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    policy = UrlDownload(kind="url", url="http://host/{video_id}.mp4")
    source = config.source.model_copy(update={"download": policy})
    job = tmp_path / "job.yaml"
    job.write_text(dump_settings(config.model_copy(update={"source": source})))
    assert preprocess.main(["--config", str(job), "--estimate-cost"]) == 0
    assert "clips to make      1 from 1 videos (0 done, 0 unusable lines)" in capsys.readouterr().out
    assert not config.out.exists()


def test_the_cost_of_raw_videos_is_not_zero_but_unknown(config: PreprocessConfig, tmp_path: Path) -> None:
    source = VideosSource(kind="videos", folder=tmp_path)
    with pytest.raises(UserError, match=r"source\.kind: videos: how many clips raw videos hold is not known"):
        preprocess.print_cost_estimate(config.model_copy(update={"source": source}))


@pytest.mark.parametrize(("cpus", "gpus"), [(1, 1), (1, 0.2), (2, 1), (4, 2), (64, 8)])
def test_a_graph_always_fits_its_machine(config: PreprocessConfig, cpus: int, gpus: float) -> None:
    stages = StagesConfig(landmarks=LandmarkStage(cpus=2, gpus=0.5, actors=(3, 16)))
    graph = preprocess.operators(config.model_copy(update={"stages": stages}))
    assert [operator.stages for operator in graph] == [("download",), ("crop",), ("landmarks",), ("write",)]
    small = fitted(preprocess.STAGE, graph, cpus, gpus)
    assert sum(operator.cpus * operator.processes for operator in small) <= cpus
    assert sum(operator.gpus * operator.processes for operator in small) <= gpus
    assert all(operator.cpus > 0 for operator in small)
    assert (small == graph) == (cpus == 64)


def test_stages_that_need_nothing_but_cpus_share_a_process(config: PreprocessConfig) -> None:
    assert [operator.stages for operator in preprocess.operators(config)] == [
        ("download",),
        ("crop", "landmarks", "write"),
    ]
    source = config.source.model_copy(update={"download": None})
    own = config.model_copy(update={"source": source, "landmarks": NoLandmarks(kind="none")})
    assert [operator.stages for operator in preprocess.operators(own)] == [("crop", "write")]


def test_dlib_asks_for_no_gpu_whatever_is_set_aside(config: PreprocessConfig, tmp_path: Path) -> None:
    stages = StagesConfig(landmarks=LandmarkStage(gpus=0.5), face_tracks=PoolStage(gpus=0.5))
    by_dlib = VideosSource(kind="videos", folder=tmp_path)
    changes = {"stages": stages, "source": by_dlib, "landmarks": DlibLandmarksConfig(kind="auto")}
    asked = preprocess.all_needs(config.model_copy(update=changes))
    assert [(need.where, need.each["GPU"]) for need in asked] == [
        ("stages.face_tracks", 0.0),
        ("stages.landmarks", 0.0),
    ]
    detector = DetectorConfig(name="sfd", weights=Path("weights"))
    source = by_dlib.model_copy(update={"detector": detector})
    asked = preprocess.all_needs(config.model_copy(update={"stages": stages, "source": source}))
    assert [
        need.each["GPU"] for need in asked if need.where in ("stages.face_tracks", "stages.landmarks")
    ] == [
        0.5,
        0.5,
    ]


@pytest.mark.parametrize(("cpus", "gpus", "most"), [(2, 1, 1), (4, 1, 2), (16, 1, 2), (16, 8, 14)])
def test_an_open_pool_leaves_room_for_the_stages_beside_it(
    config: PreprocessConfig, cpus: int, gpus: int, most: int
) -> None:
    """Of one CPU and half a GPU; the others have 1.6 CPUs in all."""
    stages = StagesConfig(landmarks=LandmarkStage(gpus=0.5))
    graph = closed(preprocess.operators(config.model_copy(update={"stages": stages})), [Machine(cpus, gpus)])
    assert [operator.most for operator in graph] == [1, 1, most, 1]
