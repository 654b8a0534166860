"""Output of inference: frames that are computed as they are asked for, and the video files that hold them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from safa.data.video import Frame, FrameTimes, write_video
from safa.errors import UserError
from safa.files import check_output
from safa.inference.inputs import Playback
from safa.inference.picture_output import PICTURES, write_gif, write_picture
from safa.inference.read_ahead import read_ahead
from safa.messages import count
from safa.visualize.images import RgbImage

COMMENT = "synthetic: face animation by SAFA"  # stored in every video that is written
CONTAINERS = (".mp4", ".mov", ".mkv")
FORMATS = (*CONTAINERS, ".gif", *PICTURES)
QUEUE_LENGTH = 4  # frames that the side video may lag behind


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
    """

    fps: float
    count: int | None
    notes: tuple[str, ...]
    sound: Path | None
    open_frames: Callable[[], Iterator[RenderedFrame]]
    playback: Playback | None = None

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
            UserError: a suffix is not supported, or there is no frame.
        """
        path, grid = output_path(path), None if grid is None else output_path(grid)
        check_outputs(path, grid, () if self.sound is None else (self.sound,))
        unchanged = 0

        def frames() -> Iterator[Frame]:
            nonlocal unchanged
            rendered = read_ahead(
                self.rendered_frames, QUEUE_LENGTH
            )  # the model does not wait for the encoder
            for number, frame in enumerate(rendered, start=1):
                if side_video is not None and frame.grid is not None:
                    side_video.add(frame.grid(), self.times.ticks[number - 1] if self.times else 0)
                unchanged += not frame.changed
                yield frame.image
                if progress is not None:
                    progress(number)

        side_times = FrameTimes(self.times.time_base) if self.times else None
        side_video = SideVideoWriter(grid, self.fps, side_times) if grid is not None else None
        try:
            n_frames = self._write(path, frames())
        except BaseException:
            if side_video is not None:
                side_video.abort()
            raise
        if side_video is not None:
            side_video.finish()
        return SavedVideo(n_frames, unchanged, self._notes_of_damage())

    def _write(self, path: Path, frames: Iterator[Frame]) -> int:
        suffix = path.suffix.lower()
        if suffix in PICTURES:
            return write_picture(path, frames, COMMENT)
        if suffix == ".gif":
            return write_gif(path, frames, self.fps, COMMENT, self.times)
        return write_video(path, frames, self.fps, times=self.times, comment=COMMENT, sound_from=self.sound)

    def _notes_of_damage(self) -> tuple[str, ...]:
        lost = self.playback.lost if self.playback else ()
        if not lost:
            return ()
        where = f"{min(lost):.1f} s" if len(lost) == 1 else f"{min(lost):.1f} to {max(lost):.1f} s"
        return (f"the video is damaged: {count(len(lost), 'frame')} lost at {where}; the others were used",)


@dataclass(frozen=True)
class SavedVideo:
    """What ``RenderedVideo.save`` wrote.

    Attributes:
        n_frames: number of frames.
        unchanged: how many of them show no face and passed through unchanged.
        notes: what was found out about the input while it was read, one sentence each.
    """

    n_frames: int
    unchanged: int
    notes: tuple[str, ...] = ()


def output_path(path: str | Path) -> Path:
    """Return where something is written, as a path.

    Raises:
        UserError: it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"is of type {type(path).__name__}", "the output", "Give a path.")
    return Path(path)


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


class SideVideoWriter:
    """Writes a video beside another one, in a thread that takes frames as they come.

    Args:
        times: empty, to be filled; None for frames at a constant rate.
    """

    def __init__(self, path: Path, fps: float, times: FrameTimes | None = None) -> None:
        self._times = times
        self._queue: Queue[Frame | None] = Queue(QUEUE_LENGTH)  # None is the end
        self._ended = self._aborted = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, args=(path, fps), daemon=True)
        self._thread.start()

    def add(self, frame: Frame, ticks: int = 0) -> None:
        """Write the next frame, to be shown at ``ticks`` of the time base."""
        if self._times is not None:
            self._times.ticks.append(ticks)
        self._queue.put(frame)

    def finish(self) -> None:
        """Wait until all frames are written; raise the error if writing failed."""
        self._end()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Leave no file, since the main video failed."""
        self._aborted = True
        self._end()

    def _end(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _write(self, path: Path, fps: float) -> None:
        try:
            write_video(path, self._frames(), fps, times=self._times, comment=COMMENT)
        except BaseException as error:  # raised again in `finish`, where somebody waits
            self._error = error
        while not self._ended:  # the main video must not wait for a reader that has failed
            self._ended = self._queue.get() is None

    def _frames(self) -> Iterator[Frame]:
        while (frame := self._queue.get()) is not None:
            yield frame
        self._ended = True
        if self._aborted:
            raise RuntimeError("the main video failed")
