"""What the buttons of the page do: limits on uploads, results as files, and an example. Knows no page."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from safa.config.synthetic import SyntheticConfig
from safa.data.video import DecodeError, probe, read_frames
from safa.errors import UserError
from safa.inference.face_animator import FaceAnimator
from safa.inference.face_crop import crop_face
from safa.inference.inputs import FrameSource, open_frame_source
from safa.inference.video_output import RenderedVideo
from safa.messages import count
from safa.synthetic import write_dataset
from safa.visualize.images import RgbImage, resized
from safa.visualize.overlays import ESTIMATED, with_landmarks

KEPT_RESULTS = 12  # whose files stay for downloading
PREVIEW = 256  # px, side of a preview
PREVIEW_FRAMES = 25  # of a video, in which a face is looked for

ReportProgress = Callable[[float, str], None]  # share that is done, message


@dataclass(frozen=True)
class Limits:
    """Which uploads are accepted.

    Attributes:
        max_seconds: longest video.
        max_mb: largest file.
        max_minutes: longest time that one job may take.
    """

    max_seconds: float = 60.0
    max_mb: float = 100.0
    max_minutes: float = 30.0

    def check_photo(self, path: str | None) -> Path:
        """Check an uploaded photo.

        Raises:
            UserError: there is none, or it is too large.
        """
        return self._check_file(path, "photo")

    def check_video(self, path: str | None) -> Path:
        """Check an uploaded video.

        Raises:
            UserError: there is none, or it is unreadable, too large or too long.
        """
        file = self._check_file(path, "video")
        try:
            info = probe(file)
        except DecodeError:
            raise UserError("not a readable video", file.name, "Give an MP4, MOV, WebM or GIF.") from None
        if info.duration > self.max_seconds:
            raise UserError(
                f"lasts {info.duration:.0f} s; at most {self.max_seconds:g} s are accepted",
                file.name,
                "Shorten it; who serves this page can raise the limit.",
            )
        return file

    def _check_file(self, path: str | None, kind: str) -> Path:
        if path is None:
            raise UserError(f"there is no {kind} yet", "", f"Upload a {kind} first.")
        file = Path(path)
        size = file.stat().st_size / 1e6
        if size > self.max_mb:
            raise UserError(
                f"has {size:.0f} MB; at most {self.max_mb:g} MB are accepted",
                file.name,
                "Upload a smaller file; who serves this page can raise the limit.",
            )
        return file


@dataclass(frozen=True)
class Result:
    """A video that was written.

    Attributes:
        video: the file.
        grid: a second video with all intermediate results; None if it was not asked for.
        message: for the user.
    """

    video: Path
    grid: Path | None
    message: str


@dataclass(frozen=True)
class HeadFiles:
    """A 3D head that was written.

    Attributes:
        overlay: image of the head over the photo.
        turntable: video of the head in one turn.
        archive: all files as a .zip.
        message: for the user.
    """

    overlay: Path
    turntable: Path
    archive: Path
    message: str


class _Job:
    """One press of a button: it ends when it is cancelled or late, be it still looking for faces.

    Attributes:
        made: frames of the result, so far.
    """

    def __init__(self, max_minutes: float, is_cancelled: Callable[[], bool]) -> None:
        self._max_minutes, self._is_cancelled = max_minutes, is_cancelled
        self._deadline = time.monotonic() + 60 * max_minutes
        self.made = 0

    def open(self, video: Path) -> FrameSource:
        """Open a video of which each frame that is read asks whether the job is to end."""
        return open_frame_source(video).watched(lambda *_: self.look())

    def look(self) -> None:
        """End the job if that is asked for.

        Raises:
            UserError: it was cancelled, or has had its time.
        """
        made = f"{count(self.made, 'frame')} had been made."
        if self._is_cancelled():
            raise UserError("cancelled", "", made)
        if time.monotonic() > self._deadline:
            raise UserError(
                f"took longer than {self._max_minutes:g} minutes", "", f"{made} Give a shorter video."
            )


class Workshop:
    """Does the work of the buttons with one model, and keeps the newest results in a folder.

    Args:
        folder: where results are written.
    """

    def __init__(self, animator: FaceAnimator, limits: Limits, folder: Path) -> None:
        self._animator, self._limits, self._folder = animator, limits, folder
        self._results: deque[Path] = deque()
        self._cancelled: set[str] = set()  # sessions whose running job is to end

    @property
    def about(self) -> str:
        """Which model it is, and how faces are found."""
        animator = self._animator
        faces = f"faces are found by {animator.detector}"
        if not animator.detector:
            faces = "no face detector is here (`safa doctor`): give pictures that are cropped to a face"
        return f"{animator.about or f'the model makes {animator.size} x {animator.size} px'}; {faces}"

    def expect(self, session: str) -> None:
        """Forget that a former job of a session was cancelled, before the next one is handed over."""
        self._cancelled.discard(session)

    def cancel(self, session: str) -> None:
        """End the running job of a session at the next frame that is read or made."""
        self._cancelled.add(session)

    def preview(self, photo: str | None, video: str | None) -> list[tuple[RgbImage, str]]:
        """Show what the model will see of both inputs, with its landmarks."""
        job = self._new_job("")
        previews: list[tuple[RgbImage, str]] = []
        if photo is not None:
            source = self._animator.source(self._limits.check_photo(photo))
            previews.append((self._with_landmarks(source.face), "photo"))
        if video is not None:
            frame_source = job.open(self._limits.check_video(video)).limited(PREVIEW_FRAMES)
            tracked = self._animator.track_video(frame_source, crop=True)
            first = next(item for item in tracked.open() if item.seen)
            face = crop_face(first.frame, first.crop_box, self._animator.size)
            previews.append((self._with_landmarks(face), "first frame with a face"))
        if not previews:
            self._limits.check_photo(None)
        return previews

    def animate(
        self,
        photo: str | None,
        video: str | None,
        progress: ReportProgress,
        *,
        relative: bool,
        adapt_scale: bool,
        find_best_frame: bool,
        with_eyes: bool,
        paste_back: bool,
        crop: bool,
        grid: bool,
        side_by_side: bool = False,
        session: str = "",
    ) -> Result:
        """Animate the photo with the motion of the video.

        Raises:
            UserError: an input is missing, too large, or cannot be used.
        """
        job = self._new_job(session)
        result = self._animator.animate(
            self._limits.check_photo(photo),
            job.open(self._limits.check_video(video)),
            relative=relative,
            adapt_scale=adapt_scale and relative,
            best_frame="find" if find_best_frame and relative else None,
            with_eyes=with_eyes,
            paste_back=paste_back,
            crop=crop,
            side_by_side=side_by_side,
        )
        return self._write(result, job, progress, "animated.mp4", grid=grid)

    def swap(
        self,
        photo: str | None,
        video: str | None,
        progress: ReportProgress,
        *,
        crop: bool,
        grid: bool,
        side_by_side: bool = False,
        session: str = "",
    ) -> Result:
        """Put the face in the photo into the video.

        Raises:
            UserError: as ``animate``.
        """
        job = self._new_job(session)
        source, driving = self._limits.check_photo(photo), job.open(self._limits.check_video(video))
        result = self._animator.swap(source, driving, crop=crop, side_by_side=side_by_side)
        return self._write(result, job, progress, "swapped.mp4", grid=grid)

    def reconstruct(self, photo: str | None, *, crop: bool) -> HeadFiles:
        """Reconstruct the 3D head of the largest face in the photo.

        Raises:
            UserError: as ``animate``.
        """
        head = self._animator.mesh(self._limits.check_photo(photo), crop=crop)
        folder = self._new_folder()
        files = head.save(folder / "head")
        archive = Path(shutil.make_archive(str(folder / "head"), "zip", folder / "head"))
        by_name = {path.name: path for path in files}
        mesh = head.mesh
        vertices, faces = count(len(mesh.vertices), "vertex", "vertices"), count(len(mesh.faces), "face")
        message = f"{vertices}, {faces}."
        return HeadFiles(by_name["overlay.png"], by_name["turntable.mp4"], archive, message)

    def _new_job(self, session: str) -> _Job:
        return _Job(self._limits.max_minutes, lambda: session in self._cancelled)

    def _write(
        self, video: RenderedVideo, job: _Job, progress: ReportProgress, name: str, *, grid: bool
    ) -> Result:
        folder = self._new_folder()
        total = video.count

        def report(done: int) -> None:
            job.made = done
            job.look()
            message = f"{done} of {count(total, 'frame')}" if total else count(done, "frame")
            progress(min(1.0, done / total) if total else 0.0, message)

        grid_file = folder / "intermediate-results.mp4" if grid else None
        saved = video.save(folder / name, grid_file, report)
        lines = [f"{count(saved.n_frames, 'frame')} at {video.fps:g} fps."]
        if saved.unchanged:
            lines.append(f"{count(saved.unchanged, 'frame')} without a face left unchanged.")
        lines += [f"Note: {note}." for note in (*video.notes, *saved.notes)]
        return Result(folder / name, grid_file, " ".join(lines))

    def _with_landmarks(self, face: RgbImage) -> RgbImage:
        points = self._animator.landmarks(face) * (PREVIEW / len(face))
        return with_landmarks(resized(face, (PREVIEW, PREVIEW)), [(points, ESTIMATED)], PREVIEW)

    def _new_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self._results.append(folder)
        while len(self._results) > KEPT_RESULTS:
            shutil.rmtree(self._results.popleft(), ignore_errors=True)
        return folder


@dataclass(frozen=True)
class Example:
    """Inputs to try the page with: a photo of one synthetic person, a video of another."""

    photo: Path
    video: Path


def make_example(folder: Path) -> Example:
    """Render the example into ``folder`` if it is not there yet; this takes some seconds."""
    config = SyntheticConfig(
        seed=4,
        num_people=2,
        num_held_out=1,
        videos_per_person=1,
        frames_per_video=50,
        frame_size=(256, 256),
        face_share=(0.55, 0.6),  # as in VoxCeleb, so that nothing has to be cropped
    )
    if not (folder / "photo.png").is_file():
        write_dataset(config, folder / "people", workers=1)
        first, _ = _videos(folder)
        Image.fromarray(next(read_frames(first))).save(folder / "photo.png")
    return Example(folder / "photo.png", _videos(folder)[1])


def _videos(folder: Path) -> list[Path]:
    return sorted((folder / "people" / "videos").glob("*.mp4"))
