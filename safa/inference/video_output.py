"""Output of inference: frames that are computed as they are asked for, and the video files that hold them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from safa.data.video import Frame, FrameTimes, write_video
from safa.errors import UserError
from safa.files import check_output
from safa.inference.inputs import Playback
from safa.inference.options import check_progress
from safa.inference.picture_output import PICTURES, write_gif, write_picture
from safa.inference.write_behind import WriteBehind
from safa.messages import count
from safa.paths import local_path
from safa.visualize.images import RgbImage

COMMENT = "synthetic: face animation by SAFA"  # stored in every video that is written
CONTAINERS = (".mp4", ".mov", ".mkv")
FORMATS = (*CONTAINERS, ".gif", *PICTURES)


@dataclass(frozen=True)
class RenderedFrame:
    """One frame of the result.

    Attributes:
        image: (H, W, 3), what is written.
        driving: (S, S, 3), what the model saw; the whole frame where there was no face.
        changed: False for a frame that passed through unchanged.
        grid: draws all intermediate results of this frame; None if the model did not see it.
    """

    image: RgbImage
    driving: RgbImage
    changed: bool
    grid: Callable[[], RgbImage] | None

    def __repr__(self) -> str:
        return f"RenderedFrame({self.image.shape[1]} x {self.image.shape[0]} px)"


@dataclass(frozen=True)
class RenderedVideo:
    """A video whose frames are computed as they are asked for, each time that it is gone through.

    Iterate over it, or ``save`` it; where the driving frames come from a generator, only once.

    Attributes:
        fps: frames per second; where frames have their own times, the mean.
        count: number of frames; None if it is not known in advance.
        notes: what was guessed or converted, one sentence each.
        sound: file whose sound track goes with it; None if there is none.
        open_frames: starts anew to compute the frames, with intermediate results.
        playback: when the frames are shown, if not at a constant rate, and which ones are missing.
        inputs: files that it is made of, which ``save`` does not write over.
    """

    fps: float
    count: int | None
    notes: tuple[str, ...]
    sound: Path | None
    open_frames: Callable[[], Iterator[RenderedFrame]]
    playback: Playback | None = None
    inputs: tuple[Path, ...] = ()

    @property
    def times(self) -> FrameTimes | None:
        """When the frames are shown, known as far as they have been computed; None: at a constant rate."""
        return self.playback.times if self.playback else None

    def __repr__(self) -> str:
        length = "frames" if self.count is None else count(self.count, "frame")
        notes = f", {count(len(self.notes), 'note')}" if self.notes else ""
        return f"RenderedVideo({length} at {self.fps:g} fps{notes})"

    @property
    def rendered_frames(self) -> Iterator[RenderedFrame]:
        """The frames with intermediate results, from the first one on.

        Raises:
            UserError: while frames are computed: one cannot be read, or a generator has been used up.
        """
        return self.open_frames()

    def __iter__(self) -> Iterator[Frame]:
        return (frame.image for frame in self.rendered_frames)

    def save(
        self,
        path: str | Path,
        grid: str | Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> SavedVideo:
        """Write the video atomically, marked as synthetic.

        Args:
            path: the file to write: .mp4, .mov, .mkv, .gif; or .png, .jpg, which get the first frame alone.
            grid: a second file, a video, which shows all intermediate results.
            progress: called with the number of frames that are finished.

        Raises:
            UserError: a suffix is not supported, the file is one of the inputs, there is no frame, or frames
                differ in size.
        """
        path, grid = output_path(path), None if grid is None else output_path(grid)
        check_outputs(path, grid, self.inputs)
        check_progress(progress)
        side_times = FrameTimes(self.times.time_base) if self.times else None
        one = path.suffix.lower() in PICTURES
        rendered = islice(self.rendered_frames, 1) if one else self.rendered_frames
        video = WriteBehind(lambda frames: self._write(path, frames))
        side = (
            None if grid is None else WriteBehind(lambda frames: self._write_side(grid, frames, side_times))
        )
        unchanged = width = height = 0
        try:
            for number, frame in enumerate(_of_one_size(rendered), start=1):
                if side is not None and frame.grid is not None:
                    if side_times is not None and self.times is not None:
                        side_times.ticks.append(self.times.ticks[number - 1])
                    side.add(frame.grid())
                unchanged += not frame.changed
                height, width = frame.image.shape[:2]
                video.add(frame.image)
                if progress is not None:
                    progress(number)
            n_frames = video.finish()
        except BaseException:
            for each in (video, side):
                if each is not None:
                    each.abort()
            raise
        if side is not None:
            side.finish()
        return SavedVideo(n_frames, unchanged, width, height, self._notes_of_damage())

    def _write(self, path: Path, frames: Iterator[Frame]) -> int:
        suffix = path.suffix.lower()
        if suffix in PICTURES:
            return write_picture(path, frames, COMMENT)
        if suffix == ".gif":
            return write_gif(path, frames, self.fps, COMMENT, self.times)
        return write_video(path, frames, self.fps, times=self.times, comment=COMMENT, sound_from=self.sound)

    def _write_side(self, path: Path, frames: Iterator[Frame], times: FrameTimes | None) -> int:
        return write_video(path, frames, self.fps, times=times, comment=COMMENT)

    def _notes_of_damage(self) -> tuple[str, ...]:
        lost = self.playback.lost if self.playback else ()
        if not lost:
            return ()
        where = f"{min(lost):.1f} s" if len(lost) == 1 else f"{min(lost):.1f} to {max(lost):.1f} s"
        return (f"the video is damaged: {count(len(lost), 'frame')} lost at {where}; the others were used",)


def _of_one_size(frames: Iterable[RenderedFrame]) -> Iterator[RenderedFrame]:
    """Frames for one file; those of a swap have the sizes of the driving frames."""
    first: Frame | None = None
    for number, frame in enumerate(frames):
        first = frame.image if first is None else first
        if frame.image.shape != first.shape:
            (height, width), (first_height, first_width) = frame.image.shape[:2], first.shape[:2]
            what = f"is {width} x {height} px, but the first is {first_width} x {first_height} px"
            raise UserError(what, f"frame {number}", "Give driving frames of one size.")
        yield frame


@dataclass(frozen=True)
class SavedVideo:
    """What ``RenderedVideo.save`` wrote.

    Attributes:
        n_frames: number of frames.
        unchanged: how many of them show no face and passed through unchanged.
        width, height: px, of each frame.
        notes: what was found out about the input while it was read, one sentence each.
    """

    n_frames: int
    unchanged: int
    width: int
    height: int
    notes: tuple[str, ...] = ()


def output_path(path: str | Path) -> Path:
    """Return where something is written, as a path.

    Raises:
        UserError: it is no path on this machine.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"is of type {type(path).__name__}", "the output", "Give a path.")
    return local_path(path, "the output")


def check_outputs(path: Path, grid: Path | None, inputs: Iterable[Path] = ()) -> None:
    """Check before the work that a result and the video of intermediate results can be written.

    Raises:
        UserError: a suffix is not supported; one cannot be written, is an input, or both are one file.
    """
    check_container(path, FORMATS)
    if grid is not None:
        check_container(grid)
        if grid.resolve() == path.resolve():
            raise UserError("is the result, too", str(grid), "Give the second video another name.")
    for output in (path,) if grid is None else (path, grid):
        check_output(output, inputs)


def check_container(path: Path, formats: Sequence[str] = CONTAINERS) -> None:
    """Check that a video, or what else is among the formats, can be written to this path.

    Raises:
        UserError: the suffix is not supported.
    """
    if path.suffix.lower() not in formats:
        supported = f"{', '.join(formats[:-1])} or {formats[-1]}"
        raise UserError(f"unsupported format; use {supported}", str(path))
