"""A video as it is being made: frames one by one, and files of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from safa.data.video import Frame, write_video
from safa.errors import UserError
from safa.visualize.images import RgbImage

COMMENT = "synthetic: face animation by SAFA"  # stored in every file that is made
CONTAINERS = (".mp4", ".mov", ".mkv")
_WAITING = 4  # frames that the second video may lie behind


@dataclass(frozen=True)
class RenderedFrame:
    """One frame.

    Attributes:
        picture: (H, W, 3), what is written.
        driving: (S, S, 3), what the model saw; the whole frame where no face was seen.
        changed: False for a frame that went through untouched.
        grid: call it for everything the model did with this frame; None if it did nothing.
    """

    picture: RgbImage
    driving: RgbImage
    changed: bool
    grid: Callable[[], RgbImage] | None


@dataclass(frozen=True)
class RenderedVideo:
    """Frames that are made when they are asked for: iterate over it, or ``save`` it. Once.

    Attributes:
        fps: frames per second.
        count: how many frames there will be, as far as is known; else None.
        notes: what was guessed or converted on the way, one sentence each.
        sound: file whose sound belongs to it, or None.
        rendered_frames: the frames with what is known of them.
    """

    fps: float
    count: int | None
    notes: tuple[str, ...]
    sound: Path | None
    rendered_frames: Iterator[RenderedFrame]

    def __iter__(self) -> Iterator[Frame]:
        return (shot.picture for shot in self.rendered_frames)

    def save(
        self, path: Path, grid: Path | None = None, progress: Callable[[int], None] | None = None
    ) -> SavedVideo:
        """Write the video, marked as synthetic, and beside it what the model did; atomically.

        Args:
            path, grid: .mp4, .mov or .mkv.
            progress: called with the number of frames done.

        Raises:
            UserError: another ending, or no frame.
        """
        for wanted in (path, grid):
            if wanted is not None:
                check_container(wanted)
        untouched = 0

        def frames() -> Iterator[Frame]:
            nonlocal untouched
            for number, shot in enumerate(self.rendered_frames, start=1):
                if second is not None and shot.grid is not None:
                    second.add(shot.grid())
                untouched += not shot.changed
                yield shot.picture
                if progress is not None:
                    progress(number)

        second = SideVideoWriter(grid, self.fps) if grid is not None else None
        try:
            count = write_video(path, frames(), self.fps, comment=COMMENT, sound_from=self.sound)
        except BaseException:
            if second is not None:
                second.give_up()
            raise
        if second is not None:
            second.finish()
        return SavedVideo(count, untouched)


@dataclass(frozen=True)
class SavedVideo:
    """Attributes: frames written; how many of them went through untouched."""

    frames: int
    untouched: int


def check_container(path: Path) -> None:
    """Raises ``UserError`` for a file that a video cannot be written to."""
    if path.suffix.lower() not in CONTAINERS:
        raise UserError("is not a video's name", str(path), f"Let it end in {', '.join(CONTAINERS)}.")
    if path.is_dir():
        raise UserError("is a folder", str(path), "Give the name of a file.")


class SideVideoWriter:
    """A video that is written beside another one, by a thread that takes frames as they come."""

    def __init__(self, path: Path, fps: float) -> None:
        self._queue: Queue[Frame | None] = Queue(_WAITING)  # None is the end
        self._ended = self._given_up = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._write, args=(path, fps), daemon=True)
        self._thread.start()

    def add(self, frame: Frame) -> None:
        """The next frame."""
        self._queue.put(frame)

    def finish(self) -> None:
        """No more frames: wait until the file is there."""
        self._end()
        if self._fault is not None:
            raise self._fault

    def give_up(self) -> None:
        """The first video failed: leave no file."""
        self._given_up = True
        self._end()

    def _end(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _write(self, path: Path, fps: float) -> None:
        try:
            write_video(path, self._frames(), fps, comment=COMMENT)
        except BaseException as fault:  # told to whoever waits in `finish`
            self._fault = fault
        while not self._ended:  # the first video must not wait for a reader that has failed
            self._ended = self._queue.get() is None

    def _frames(self) -> Iterator[Frame]:
        while (frame := self._queue.get()) is not None:
            yield frame
        self._ended = True
        if self._given_up:
            raise RuntimeError("the video beside it failed")
