"""Joining videos of the same encoding end to end: their pictures are copied, not encoded again.

Pictures are stored in the order of decoding, which is ahead of the order of showing by as much as ``DELAY``
in some of the videos and by nothing in others. So decoding times are set anew, one picture after the other;
left as they are, they jump where two videos meet, and programs see another frame rate.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ffmpeg
import imageio_ffmpeg

from safa.data.video import probe
from safa.files import atomic_file
from safa.limits import limit
from safa.memory import bound_memory

DELAY = 2  # pictures by which x264 decodes ahead, at most


def join_videos(parts: Sequence[Path], path: Path) -> None:
    """Write one video with the pictures of all parts, atomically.

    Args:
        parts: videos that ``write_video`` made, of one size, rate and quality.

    Raises:
        DecodeError: the first part is no video.
        RuntimeError: ffmpeg failed.
    """
    with atomic_file(path) as temporary, tempfile.TemporaryDirectory(prefix="safa-") as scratch:
        # ffmpeg reads names between quotes; one in a name ends there, is escaped, and begins again.
        lines = ["file '" + str(part.absolute()).replace("'", r"'\''") + "'\n" for part in parts]
        (Path(scratch) / "parts.txt").write_text("".join(lines), encoding="utf-8")
        joined = ffmpeg.input(f"file:{scratch}/parts.txt", format="concat", safe=0)
        times = f"setts=pts=PTS:dts=round((N-{DELAY})/({probe(parts[0]).fps}*TB))"
        options = {"c": "copy", "bsf:v": times, "movflags": "+faststart"}
        stream = ffmpeg.output(joined, f"file:{temporary}", **options)
        command = stream.global_args("-loglevel", "error").overwrite_output()
        arguments = command.compile(cmd=imageio_ffmpeg.get_ffmpeg_exe())
        with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            bound_memory(process.pid, limit("encoder_bytes"))
            errors = process.communicate()[1]
        if process.returncode:
            reason = errors.decode(errors="replace").strip().rpartition("\n")[2][:300]
            raise RuntimeError(f"ffmpeg could not write {path.name}: {reason}")
