"""An estimate of what a preprocessing run costs: clips, hours of video, bytes, core-hours, GPU-hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safa.config.preprocess import FaceAlignmentLandmarks, MetadataSource, PreprocessConfig
from safa.data.sources import ClipJob

STORED_SIZE = 256  # px, of the frames that the rates were measured with
GIB = 2**30


@dataclass(frozen=True)
class Rates:
    """Measured rates. ``benchmarks/preprocess.py`` measures them; docs/data.md names the machines.

    Attributes:
        frames_per_core_s: frames decoded, cropped, scaled to 256 px, encoded and stored, from 720p.
        bytes_per_frame: size of a stored frame of 256 px.
        landmarks_per_gpu_s: frames through face detector and landmark network; None: not measured.
        video_mb_per_s: size of one second of raw 720p video; assumed, 1.5 Mbit/s.
    """

    frames_per_core_s: float
    bytes_per_frame: float
    landmarks_per_gpu_s: float | None
    video_mb_per_s: float


MEASURED = Rates(
    frames_per_core_s=157.0, bytes_per_frame=22_300.0, landmarks_per_gpu_s=None, video_mb_per_s=0.19
)


@dataclass(frozen=True)
class CostEstimate:
    """The cost of what is left to do.

    ``unknown`` clips have no end in the list; they count in ``clips`` and in nothing else.
    """

    clips: int
    videos: int
    unknown: int
    done: int
    unusable: int
    hours: float
    stored_bytes: float
    download_bytes: float | None  # None: nothing is downloaded
    core_hours: float
    gpu_hours: float | None  # None: no networks, or not measured
    networks: bool

    def as_text(self) -> str:
        """The estimate for a terminal, a line for each figure."""
        lines = [
            f"clips to make      {self.clips} from {self.videos} videos ({self.done} done, "
            f"{self.unusable} unusable lines)",
            f"video              {self.hours:.2f} hours",
            f"stored             {self.stored_bytes / GIB:.2f} GiB",
            f"core-hours         {self.core_hours:.2f}",
        ]
        if self.download_bytes is not None:
            lines.append(
                f"downloads          {self.download_bytes / GIB:.2f} GiB at least (to each video's last clip)"
            )
        if self.networks:
            hours = "not measured" if self.gpu_hours is None else f"{self.gpu_hours:.2f}"
            lines.append(f"GPU-hours          {hours}")
        if self.unknown:
            lines.append(f"unknown length     {self.unknown} clips, not in the figures above")
        return "\n".join(lines)


def estimate_cost(
    config: PreprocessConfig, jobs: Sequence[ClipJob], unusable: int, done: int, rates: Rates = MEASURED
) -> CostEstimate:
    """Estimate the cost of a list of clips.

    Args:
        jobs: clips that are still to be made.
        unusable: number of lines of the list from which no clip can be made.
        done: number of clips that exist already.
    """
    lengths = [(job.end - job.start) / job.fps for job in jobs if job.end is not None and job.fps]
    seconds = sum(lengths)
    frames = seconds * config.fps
    area = (config.size / STORED_SIZE) ** 2
    downloaded = isinstance(config.source, MetadataSource) and config.source.download is not None
    networks = isinstance(config.landmarks, FaceAlignmentLandmarks)
    rate = rates.landmarks_per_gpu_s
    return CostEstimate(
        clips=len(jobs),
        videos=len({job.video_id for job in jobs}),
        unknown=len(jobs) - len(lengths),
        done=done,
        unusable=unusable,
        hours=seconds / 3600,
        stored_bytes=frames * rates.bytes_per_frame * area,
        download_bytes=_least_seconds(jobs) * rates.video_mb_per_s * 2**20 if downloaded else None,
        core_hours=frames / rates.frames_per_core_s / 3600,
        gpu_hours=frames / rate / 3600 if networks and rate else None,
        networks=networks,
    )


def _least_seconds(jobs: Sequence[ClipJob]) -> float:
    """Seconds that must be downloaded: whole videos, each at least as long as the end of its last clip."""
    last: dict[str, float] = {}
    for job in jobs:
        if job.end is not None and job.fps:
            last[job.video_id] = max(last.get(job.video_id, 0.0), job.end / job.fps)
    return sum(last.values())
