"""What the page's buttons do. Knows files and models, and nothing of the page.

XXX What the page takes, and how it refuses the rest.

XXX Inputs to try the page with: two people that don't exist, drawn by the built-in data set."""

from __future__ import annotations

import shutil
import tempfile
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
from safa.inference.inputs import open_frame_source
from safa.inference.video_output import RenderedVideo
from safa.synthetic import write_dataset
from safa.visualize.images import RgbImage, resized
from safa.visualize.overlays import ESTIMATED, with_landmarks

KEPT_RUNS = 12  # results whose files stay for downloading
PREVIEW = 256  # px

Progress = Callable[[float, str], None]  # share done, words


@dataclass(frozen=True)
class Result:
    """Attributes: video; grid, a second one or None; message, for the user."""

    video: Path
    grid: Path | None
    message: str


@dataclass(frozen=True)
class HeadFiles:
    """Attributes: overlay picture, turntable video, archive of all files, message."""

    overlay: Path
    turntable: Path
    archive: Path
    message: str


class Workshop:
    """One model and a folder of results, the oldest of which are deleted.

    Args:
        folder: where results go.
    """

    def __init__(self, animator: FaceAnimator, limits: Limits, folder: Path) -> None:
        self._animator, self._limits, self._folder = animator, limits, folder
        self._runs: deque[Path] = deque()

    def preview(self, photo: str | None, video: str | None) -> list[tuple[RgbImage, str]]:
        """What the model will see of both inputs, with the landmarks it finds."""
        shown: list[tuple[RgbImage, str]] = []
        if photo is not None:
            source = self._animator.source(self._limits.check_photo(photo))
            shown.append((self._marked(source.face), "photo"))
        if video is not None:
            frame_source = open_frame_source(self._limits.check_video(video)).limited(1)
            first = next(self._animator.track_video(frame_source, crop=True).open())
            shown.append(
                (self._marked(crop_face(first.frame, first.crop_box, self._animator.size)), "first frame")
            )
        if not shown:
            self._limits.check_photo(None)
        return shown

    def animate(
        self,
        photo: str | None,
        video: str | None,
        progress: Progress,
        *,
        relative: bool,
        adapt_scale: bool,
        find_best_frame: bool,
        with_eyes: bool,
        paste_back: bool,
        crop: bool,
        grid: bool,
    ) -> Result:
        """The photo with the video's motion.

        Raises:
            UserError: inputs that are missing, too large, or cannot be used.
        """
        result = self._animator.animate(
            self._limits.check_photo(photo),
            self._limits.check_video(video),
            relative=relative,
            adapt_scale=adapt_scale and relative,
            best_frame="find" if find_best_frame and relative else None,
            with_eyes=with_eyes,
            paste_back=paste_back,
            crop=crop,
        )
        return self._write(result, progress, "animated.mp4", grid=grid)

    def swap(
        self, photo: str | None, video: str | None, progress: Progress, *, crop: bool, grid: bool
    ) -> Result:
        """The photo's face in the video.

        Raises:
            UserError: as ``animate``.
        """
        source, driving = self._limits.check_photo(photo), self._limits.check_video(video)
        return self._write(
            self._animator.swap(source, driving, crop=crop), progress, "swapped.mp4", grid=grid
        )

    def reconstruct(self, photo: str | None, *, crop: bool) -> HeadFiles:
        """The 3D head of the largest face in a photo.

        Raises:
            UserError: as ``animate``.
        """
        head = self._animator.mesh(self._limits.check_photo(photo), crop=crop)
        folder = self._new_run()
        files = head.save(folder / "head")
        archive = Path(shutil.make_archive(str(folder / "head"), "zip", folder / "head"))
        by_name = {path.name: path for path in files}
        message = f"{len(head.mesh.vertices)} vertices, {len(head.mesh.faces)} faces."
        return HeadFiles(by_name["overlay.png"], by_name["turntable.mp4"], archive, message)

    def _write(self, video: RenderedVideo, progress: Progress, name: str, *, grid: bool) -> Result:
        folder = self._new_run()
        total = video.count

        def report(done: int) -> None:
            progress(
                min(1.0, done / total) if total else 0.0, f"{done} frames" + (f" of {total}" if total else "")
            )

        second = folder / "what-the-model-did.mp4" if grid else None
        saved = video.save(folder / name, second, report)
        lines = [f"{saved.frames} frames at {video.fps:g} fps."]
        if saved.untouched:
            lines.append(f"{saved.untouched} frames show no face and went through untouched.")
        return Result(folder / name, second, " ".join(lines + [f"Note: {note}." for note in video.notes]))

    def _marked(self, face: RgbImage) -> RgbImage:
        points = self._animator.landmarks(face) * (PREVIEW / len(face))
        return with_landmarks(resized(face, (PREVIEW, PREVIEW)), [(points, ESTIMATED)], PREVIEW)

    def _new_run(self) -> Path:
        run = Path(tempfile.mkdtemp(dir=self._folder))
        self._runs.append(run)
        while len(self._runs) > KEPT_RUNS:
            shutil.rmtree(self._runs.popleft(), ignore_errors=True)
        return run


@dataclass(frozen=True)
class Limits:
    """Attributes: max_seconds, longest video taken; max_mb, largest file taken."""

    max_seconds: float = 60.0
    max_mb: float = 100.0

    def check_photo(self, path: str | None) -> Path:
        """Raises ``UserError`` if no photo is given, or too large a one."""
        return self._check_file(path, "photo")

    def check_video(self, path: str | None) -> Path:
        """Raises ``UserError`` if no video is given, an unreadable, too large or too long one."""
        file = self._check_file(path, "video")
        try:
            info = probe(file)
        except DecodeError:
            raise UserError("not a readable video", file.name, "Give an MP4, MOV, WebM or GIF.") from None
        if info.duration > self.max_seconds:
            raise UserError(
                f"lasts {info.duration:.0f} s; at most {self.max_seconds:g} s are taken here",
                file.name,
                "Cut it, or start `safa app --max-seconds` with more.",
            )
        return file

    def _check_file(self, path: str | None, kind: str) -> Path:
        if path is None:
            raise UserError(f"there is no {kind} yet", "", f"Give a {kind} first.")
        file = Path(path)
        size = file.stat().st_size / 1e6
        if size > self.max_mb:
            raise UserError(
                f"has {size:.0f} MB; at most {self.max_mb:g} MB are taken here",
                file.name,
                "Give a smaller file, or start `safa app --max-mb` with more.",
            )
        return file


@dataclass(frozen=True)
class Example:
    """Attributes: photo of one person; video of the other."""

    photo: Path
    video: Path


def make_example(folder: Path) -> Example:
    """Draw them, once; takes some seconds."""
    config = SyntheticConfig(
        seed=4,
        num_people=2,
        num_held_out=1,
        videos_per_person=1,
        frames_per_video=50,
        frame_size=(256, 256),
        face_share=(0.55, 0.6),  # as VoxCeleb frames a face, so that nothing has to be cut
    )
    if not (folder / "photo.png").is_file():
        write_dataset(config, folder / "people", workers=1)
        first, _ = _videos(folder)
        Image.fromarray(next(read_frames(first))).save(folder / "photo.png")
    return Example(folder / "photo.png", _videos(folder)[1])


def _videos(folder: Path) -> list[Path]:
    return sorted((folder / "people" / "videos").glob("*.mp4"))
