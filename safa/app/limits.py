"""What the page takes, and how it refuses the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safa.data.video import DecodeError, probe
from safa.errors import UserError


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
