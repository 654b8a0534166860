"""What the page's buttons do. Knows files and models, and nothing of the page."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safa.app.limits import Limits
from safa.inference.face_animator import FaceAnimator
from safa.inference.facebox import cut
from safa.inference.film import Film
from safa.inference.footage import open_footage
from safa.pictures.canvas import Picture, resized
from safa.pictures.points import ESTIMATED, with_landmarks

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

    def preview(self, photo: str | None, video: str | None) -> list[tuple[Picture, str]]:
        """What the model will see of both inputs, with the landmarks it finds."""
        shown: list[tuple[Picture, str]] = []
        if photo is not None:
            source = self._animator.source(self._limits.check_photo(photo))
            shown.append((self._marked(source.face), "photo"))
        if video is not None:
            footage = open_footage(self._limits.check_video(video)).limited(1)
            first = next(self._animator.frame_film(footage, crop=True).open())
            shown.append((self._marked(cut(first.frame, first.square, self._animator.size)), "first frame"))
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
        film = self._animator.animate(
            self._limits.check_photo(photo),
            self._limits.check_video(video),
            relative=relative,
            adapt_scale=adapt_scale and relative,
            best_frame="find" if find_best_frame and relative else None,
            with_eyes=with_eyes,
            paste_back=paste_back,
            crop=crop,
        )
        return self._write(film, progress, "animated.mp4", grid=grid)

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

    def _write(self, film: Film, progress: Progress, name: str, *, grid: bool) -> Result:
        folder = self._new_run()
        total = film.count

        def report(done: int) -> None:
            progress(
                min(1.0, done / total) if total else 0.0, f"{done} frames" + (f" of {total}" if total else "")
            )

        second = folder / "what-the-model-did.mp4" if grid else None
        saved = film.save(folder / name, second, report)
        lines = [f"{saved.frames} frames at {film.fps:g} fps."]
        if saved.untouched:
            lines.append(f"{saved.untouched} frames show no face and went through untouched.")
        return Result(folder / name, second, " ".join(lines + [f"Note: {note}." for note in film.notes]))

    def _marked(self, face: Picture) -> Picture:
        points = self._animator.landmarks(face) * (PREVIEW / len(face))
        return with_landmarks(resized(face, (PREVIEW, PREVIEW)), [(points, ESTIMATED)], PREVIEW)

    def _new_run(self) -> Path:
        run = Path(tempfile.mkdtemp(dir=self._folder))
        self._runs.append(run)
        while len(self._runs) > KEPT_RUNS:
            shutil.rmtree(self._runs.popleft(), ignore_errors=True)
        return run
