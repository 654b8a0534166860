"""What a preprocessing run will take: clips, hours of video, bytes, core-hours, GPU-hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safa.config.preprocess import FaceAlignmentLandmarks, MetadataSource, PreprocessConfig
from safa.data.sources import ClipJob

STORED_SIZE = 256  # px, of the frames that the rates were measured with
GIB = 2**30


@dataclass(frozen=True)
class Rates:
    """Measured rates; ``benchmarks/preprocess.py`` prints its own, docs/data.md tells the machines.

    Attributes:
        frames_per_core_s: decode, cut, scale, encode and store, of 256 px from 720p.
        bytes_per_frame: stored, of 256 px.
        landmarks_per_gpu_s: frames through detector and landmark network; None: not measured.
        video_mb_per_s: of a raw second of 720p, for the size of downloads; assumed, 1.5 Mbit/s.
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
    """What is left to do. ``unknown`` clips have no end in the list and count in nothing but ``clips``."""

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
        """A line for each figure."""
        lines = [
            f"clips to make      {self.clips} of {self.videos} videos ({self.done} done, "
            f"{self.unusable} unusable lines)",
            f"video              {self.hours:.2f} hours",
            f"stored             {self.stored_bytes / GIB:.2f} GiB",
            f"core-hours         {self.core_hours:.2f}",
        ]
        if self.download_bytes is not None:
            lines.append(
                f"downloads, least   {self.download_bytes / GIB:.2f} GiB (to each video's last clip)"
            )
        if self.networks:
            hours = "not measured" if self.gpu_hours is None else f"{self.gpu_hours:.2f}"
            lines.append(f"GPU-hours          {hours}")
        if self.unknown:
            lines.append(f"of unknown length  {self.unknown} clips, in none of the figures above")
        return "\n".join(lines)


def estimate_cost(
    config: PreprocessConfig, jobs: Sequence[ClipJob], unusable: int, done: int, rates: Rates = MEASURED
) -> CostEstimate:
    """Add up a list of clips.

    Args:
        jobs: what is still to make.
        unusable: lines of the list that no clip can be made of.
        done: clips that are there.
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
    """Of the videos: a whole one is downloaded, and it lasts at least until its last clip ends."""
    last: dict[str, float] = {}
    for job in jobs:
        if job.end is not None and job.fps:
            last[job.video_id] = max(last.get(job.video_id, 0.0), job.end / job.fps)
    return sum(last.values())
