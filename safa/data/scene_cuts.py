"""Scene cuts of a video, found by ffmpeg's own measure of how much a frame differs from the one before."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import ffmpeg
import imageio_ffmpeg

from safa.data.video import DecodeError

MIN_BYTES_PER_S, LEAST_S = 10_000, 600.0  # how slow reading a file may be, before it is given up
_TIME = re.compile(rb"pts_time:([0-9.]+)")


def find_cuts(video: Path, fps: float, size: tuple[int, int], threshold: float) -> frozenset[int]:
    """Numbers of the frames with which a new scene begins.

    Args:
        fps: rate at which frames are counted, as ``read_frames`` counts those of a whole file.
        size: (height, width) px at which frames are compared.
        threshold: least scene score, 0 to 1, of ffmpeg's ``select`` filter.

    Raises:
        DecodeError: ffmpeg could not read the file, or not in time.
    """
    stream = ffmpeg.input(f"file:{video}").video
    stream = stream.filter("fps", fps=fps, start_time=0).filter("scale", size[1], size[0])
    stream = stream.filter("select", f"gt(scene,{threshold})").filter("metadata", "print", file="-")
    stream = stream.output("pipe:", format="null").global_args("-nostdin", "-loglevel", "error")
    command = stream.global_args("-threads", "1").compile(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    try:
        patience = LEAST_S + video.stat().st_size / MIN_BYTES_PER_S
        done = subprocess.run(command, capture_output=True, check=False, timeout=patience)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DecodeError(f"{video}: scene cuts cannot be found ({type(error).__name__})") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise DecodeError(f"{video}: {lines[-1][:300]}")
    return frozenset(round(float(time) * fps) for time in _TIME.findall(done.stdout))
