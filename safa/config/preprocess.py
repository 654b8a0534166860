"""Settings of preprocessing: videos to clips in Parquet."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from safa.config.loader import Settings
from safa.files import Location


class EncodingConfig(Settings):
    """How stored frames are encoded."""

    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)  # of jpeg


# ---- where raw videos come from ----------------------------------------------------------------------------


class _DownloadPolicy(Settings):
    """What every kind of download shares. One download serves all clips of its video."""

    keep: bool = False  # leave the video in `source.videos` after its clips are made
    parallel: int = Field(default=4, ge=1)  # downloads from their host at a time, on the whole cluster
    attempts: int = Field(default=4, ge=1)  # of one video in one run, if the network fails
    backoff_s: float = Field(default=5.0, ge=0)  # before the second attempt; doubles with each further one
    timeout_s: float = Field(default=30.0, gt=0)  # without a byte, until a transfer counts as stalled


class UrlDownload(_DownloadPolicy):
    """Videos at URIs that follow from their ids: http, https, s3, gs, or file."""

    kind: Literal["url"]
    url: str  # holds {video_id}, e.g. http://host/{video_id}.mp4 or s3://bucket/{video_id}.mp4

    @field_validator("url")
    @classmethod
    def _names_the_video(cls, url: str) -> str:
        if "{video_id}" not in url:
            raise ValueError("must hold {video_id}")
        if url.partition("://")[0] not in ("http", "https", "s3", "gs", "file"):
            raise ValueError("must begin with http://, https://, s3://, gs:// or file://")
        return url


class YtDlpDownload(_DownloadPolicy):
    """Videos by yt-dlp, which must be installed (``make install``, or ``pip install -e '.[download]'``)."""

    kind: Literal["yt_dlp"]
    page: str = "https://www.youtube.com/watch?v={video_id}"
    # Video without sound, mp4 if there is one, no taller than the metadata's boxes were drawn on.
    format: str = "bestvideo[height<=720][ext=mp4]/best[height<=720][ext=mp4]/bestvideo[height<=720]/best"
    cookies: Location | None = None  # Netscape cookies.txt
    proxy: str | None = None  # e.g. socks5://127.0.0.1:1080
    rate_limit_mb: float | None = Field(default=None, gt=0)  # MB/s of one download
    sleep_s: tuple[float, float] = (0.0, 0.0)  # pause before each download, drawn from this range

    @field_validator("page")
    @classmethod
    def _names_the_video(cls, page: str) -> str:
        if "{video_id}" not in page:
            raise ValueError("must hold {video_id}")
        return page

    @model_validator(mode="after")
    def _range_of_sleep(self) -> Self:
        if not 0 <= self.sleep_s[0] <= self.sleep_s[1]:
            raise ValueError("sleep_s must be [least, most] seconds")
        return self


# ---- faces -------------------------------------------------------------------------------------------------


class DetectorConfig(Settings):
    """A face detector: dlib, or one of the face-alignment library (``make install`` brings both)."""

    name: Literal["dlib", "sfd", "blazeface", "blazeface_back", "retinaface", "yunet", "scrfd"] = "dlib"
    # Folder of the weight files, of all but dlib; docs/data.md lists their names.
    weights: Location | None = None
    threshold: float = Field(default=0.5, gt=0, lt=1)  # least score of a face
    batch: int = Field(default=16, ge=1)  # frames
    device: str = "cpu"  # or cuda; dlib computes on the CPU

    @model_validator(mode="after")
    def _only_dlib_brings_its_weights(self) -> Self:
        if (self.name == "dlib") != (self.weights is None):
            raise ValueError("dlib takes no weights" if self.weights else f"{self.name} needs weights")
        return self


class SidecarLandmarks(Settings):
    """Landmarks that lie beside the videos: ``.landmarks.npy``, or the reference's ``.pkl``."""

    kind: Literal["sidecar"] = "sidecar"
    folder: Location | None = None  # where they are, if not beside the videos


class FaceAlignmentLandmarks(Settings):
    """Landmarks by face-alignment, on the stored frames."""

    kind: Literal["face_alignment"]
    detector: DetectorConfig
    weights: Location  # folder of 2DFAN4-11f355bf06.pth.tar
    choose: Literal["largest", "nearest"] = "nearest"  # of several faces; nearest to the middle of the crop
    flip: bool = False  # average with the mirrored frame: a little steadier, twice the time

    @model_validator(mode="after")
    def _fan_wants_the_boxes_that_it_knows(self) -> Self:
        if self.detector.name == "dlib":
            raise ValueError("landmarks of face_alignment need one of its detectors, not dlib")
        return self


class DlibLandmarksConfig(Settings):
    """Landmarks by dlib, on the stored frames; with ``auto`` only of videos without landmarks beside them."""

    kind: Literal["dlib", "auto"]
    choose: Literal["largest", "nearest"] = "nearest"  # of several faces; nearest to the middle of the crop


class NoLandmarks(Settings):
    """Clips are stored without landmarks (NaN)."""

    kind: Literal["none"]


# ---- sources -----------------------------------------------------------------------------------------------


class MetadataSource(Settings):
    """Videos and a list of clips in them, in VoxCeleb's columns."""

    kind: Literal["metadata"]
    csv: Location  # columns video_id, start, end, bbox, fps, width, height, partition, person_id
    videos: Location  # folder of {video_id}.mp4; with `download`, where downloads go
    download: Annotated[UrlDownload | YtDlpDownload, Field(discriminator="kind")] | None = None


class FaceTrackConfig(Settings):
    """Which face tracks become clips; the defaults are those usual in the field."""

    # dlib searches every tenth frame as a whole, and the others near the faces of the frame before.
    search_every: int = Field(default=10, ge=1)
    min_iou: float = Field(default=0.25, gt=0, lt=1)  # with the first box of the face track
    min_frames: int = Field(default=64, ge=1)
    max_frames: int = Field(default=1024, ge=1)
    min_size: int = Field(default=256, ge=1)  # px, shorter side of the clip's box
    increase: float = Field(default=0.1, ge=0)  # of the box that holds all faces of a track, at each side
    gap: int = Field(default=5, ge=0)  # frames without the face that a track survives
    # A scene cut ends all tracks: where a frame differs from the one before by this much, 0 to 1, in ffmpeg's
    # scene score. None: cuts are not looked for.
    scene_cut: float | None = Field(default=0.4, gt=0, lt=1)
    drop_border: bool = True  # drop tracks whose faces touch the frame's edge


class VideosSource(Settings):
    """Raw videos without a list of clips: faces are detected and tracked."""

    kind: Literal["videos"]
    folder: Location
    split: Literal["auto", "train", "test"] = "auto"  # auto: a share of the people is held out (test)
    held_out: float = Field(default=0.1, gt=0, lt=1)  # that share
    # Who is who, by the embeddings of their faces; null: each video counts as a person of its own.
    identity: Literal["dlib"] | None = "dlib"
    detector: DetectorConfig = DetectorConfig()
    face_tracks: FaceTrackConfig = FaceTrackConfig()
    short_side: int = Field(default=360, ge=64, le=16384)  # px; larger frames are scaled down for detection


class ClipsSource(Settings):
    """Crops of one face that exist already: videos, or folders of PNGs; sidecars lie beside them."""

    kind: Literal["clips"]
    folder: Location  # of *.mp4 and folders of *.png; a name person#video#start#end is taken as the clip id
    split: Literal["auto", "train", "test"] = "train"  # auto: a share of the people is held out (test)
    held_out: float = Field(default=0.1, gt=0, lt=1)  # that share
    fps: float = Field(default=25.0, gt=0, le=1000)  # of PNG folders


# ---- stages ------------------------------------------------------------------------------------------------


class TaskStage(Settings):
    """A stage that runs as tasks, as many at once as there is room for."""

    cpus: float = Field(default=1.0, gt=0)  # of each


class PoolStage(Settings):
    """A stage whose processes keep networks loaded: a pool that grows and shrinks with the work."""

    cpus: float = Field(default=1.0, gt=0)  # of each process
    gpus: float = Field(default=0.0, ge=0)  # of each process; may be a fraction
    actors: tuple[int, int] | None = None  # least and most processes; None: one a core (safa/cores.py)

    @field_validator("actors")
    @classmethod
    def _range(cls, actors: tuple[int, int] | None) -> tuple[int, int] | None:
        if actors is not None and not 1 <= actors[0] <= actors[1]:
            raise ValueError("must be [least, most] processes, at least 1")
        return actors


class LandmarkStage(PoolStage):
    """Detector and landmark network."""

    batch: int = Field(default=64, ge=1)  # frames, of whatever clips


class StagesConfig(Settings):
    """The share of the cluster that each stage takes. Nothing that is stored depends on it."""

    face_tracks: PoolStage = PoolStage()  # of raw videos alone
    download: TaskStage = TaskStage(cpus=0.1)  # `source.download.parallel` says how many at once
    crop: TaskStage = TaskStage()
    landmarks: LandmarkStage = LandmarkStage()
    write: TaskStage = TaskStage(cpus=0.5)


Source = MetadataSource | VideosSource | ClipsSource


class PreprocessConfig(Settings):
    """One preprocessing run: source, what is stored, what is refused, and the share of the cluster."""

    source: Annotated[Source, Field(discriminator="kind")]
    out: Location
    landmarks: Annotated[
        SidecarLandmarks | DlibLandmarksConfig | FaceAlignmentLandmarks | NoLandmarks,
        Field(discriminator="kind"),
    ] = SidecarLandmarks()
    size: int = Field(default=256, ge=16, le=4096)  # px, both sides of a stored frame
    fps: float = Field(default=25.0, gt=0, le=1000)  # of the stored frames
    encoding: EncodingConfig = EncodingConfig()
    min_frames: int = Field(default=64, ge=1)  # shorter clips are refused (too_short)
    min_box: int = Field(default=256, ge=1)  # px; boxes with a shorter side are refused (too_small)
    max_outside: float = Field(default=0.25, ge=0, lt=1)  # share of a box outside the frame (border)
    tolerate_damage: float = Field(default=0.0, ge=0, lt=1)  # share of frames that may be damaged (decode)
    piece_frames: int = Field(default=128, ge=1, le=65536)  # frames in one row at most
    retry_quarantined: bool = False  # try clips again that an earlier run refused
    max_unexpected: float = Field(default=0.1, ge=0, le=1)  # share of `unexpected` that fails the run
    mix_settings: bool = False  # add to a folder that was made with other settings
    stages: StagesConfig = StagesConfig()
