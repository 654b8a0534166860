"""Random access to stored clips: two frames of a clip without decoding, or even reading, the others.

Each row group of a file holds one piece of a clip, so a frame costs reading one piece (a few MB at most) and
decoding one image. The most recent pieces stay in memory, encoded, within a budget.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from safa.data.images import decode_image
from safa.data.schema import CLIP_FILES, NUM_LANDMARKS
from safa.errors import UserError

CACHE_BYTES = 256 * 2**20
LIGHT_COLUMNS = [
    *("clip_id", "person_id", "video_id", "split", "piece"),
    *("n_frames", "fps", "height", "width", "start", "end", "source"),
]


@dataclass(frozen=True)
class PieceRef:
    """Where a piece of a clip is stored: a file, and a row group of it."""

    path: Path
    row_group: int
    n_frames: int


@dataclass(frozen=True)
class ClipInfo:
    """A stored clip without its frames."""

    clip_id: str
    person_id: str
    video_id: str
    split: str
    start: int
    end: int
    n_frames: int
    fps: float
    height: int
    width: int
    source: str
    pieces: tuple[PieceRef, ...]


class ClipStore:
    """Clips of a folder ``split=*/...parquet`` as ``pipelines/preprocess`` writes it.

    Can be pickled: a worker reopens the files itself.

    Args:
        cache_bytes: of encoded pieces to keep; the last one is kept in any case.

    Raises:
        UserError: no such folder, no clips in it, or a file that is not of this kind.
    """

    def __init__(self, folder: Path, cache_bytes: int = CACHE_BYTES) -> None:
        self._folder, self._cache_bytes = folder, cache_bytes
        files = sorted(folder.glob(CLIP_FILES))
        if not files:
            raise UserError(
                "no clips here (split=*/*.parquet)", str(folder), "Run pipelines.preprocess first."
            )
        rows = [row for path in files for row in _light_rows(path)]
        by_clip: dict[str, list[tuple[dict[str, Any], PieceRef]]] = {}
        for row, piece in rows:
            by_clip.setdefault(row["clip_id"], []).append((row, piece))
        self._clips = {clip_id: _clip_info(parts) for clip_id, parts in sorted(by_clip.items())}
        self._pieces: OrderedDict[PieceRef, list[bytes]] = OrderedDict()
        self._bytes = 0

    @property
    def index(self) -> tuple[ClipInfo, ...]:
        """All clips in the order of their ids."""
        return tuple(self._clips.values())

    def info(self, clip_id: str) -> ClipInfo:
        """One clip's entry in the index. Raises ``KeyError`` if it is not here."""
        return self._clips[clip_id]

    def frames(self, clip_id: str, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Decoded frames, (H, W, 3) uint8 RGB each, in the order asked for.

        Raises:
            IndexError: the clip has no such frame.
        """
        return [decode_image(data) for data in self.encoded_frames(clip_id, indices)]

    def encoded_frames(self, clip_id: str, indices: Sequence[int]) -> list[bytes]:
        """The frames as they are stored, JPEG or PNG bytes each, in the order asked for.

        Raises:
            IndexError: the clip has no such frame.
        """
        clip = self._clips[clip_id]
        ends = list(accumulate(piece.n_frames for piece in clip.pieces))
        encoded = []
        for index in indices:
            if not 0 <= index < clip.n_frames:
                raise IndexError(f"{clip_id} has {clip.n_frames} frames, not one numbered {index}")
            number = int(np.searchsorted(ends, index, side="right"))
            piece = clip.pieces[number]
            encoded.append(self._encoded(piece)[index - ends[number] + piece.n_frames])
        return encoded

    def landmarks(self, clip_id: str) -> NDArray[np.float32]:
        """All landmarks of a clip, (T, 68, 2) px of the stored frames, NaN where there is no face."""
        return np.concatenate(list(self.landmark_pieces(clip_id)))

    def landmark_pieces(self, clip_id: str) -> Iterator[NDArray[np.float32]]:
        """The landmarks piece by piece, (t, 68, 2) each, so that a long clip need not be in memory."""
        for piece in self._clips[clip_id].pieces:
            table = pq.ParquetFile(piece.path).read_row_group(piece.row_group, columns=["landmarks"])
            flat = table["landmarks"].combine_chunks().flatten().flatten()
            yield flat.to_numpy(zero_copy_only=False).reshape(-1, NUM_LANDMARKS, 2)

    def _encoded(self, piece: PieceRef) -> list[bytes]:
        if piece in self._pieces:
            self._pieces.move_to_end(piece)
            return self._pieces[piece]
        table = pq.ParquetFile(piece.path).read_row_group(piece.row_group, columns=["frames"])
        frames: list[bytes] = table["frames"][0].as_py()
        self._pieces[piece] = frames
        self._bytes += sum(map(len, frames))
        while self._bytes > self._cache_bytes and len(self._pieces) > 1:
            _, dropped = self._pieces.popitem(last=False)
            self._bytes -= sum(map(len, dropped))
        return frames

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_pieces": OrderedDict(), "_bytes": 0}


def _light_rows(path: Path) -> list[tuple[dict[str, Any], PieceRef]]:
    try:
        file = pq.ParquetFile(path)
        rows = file.read(columns=LIGHT_COLUMNS).to_pylist()
        if len(rows) != file.num_row_groups or "clip_id" not in file.schema_arrow.names:
            raise ValueError("its rows are not one to a row group")
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise UserError(
            f"not a file of clips ({error})", str(path), "Delete it and preprocess again."
        ) from None
    return [(row, PieceRef(path, number, row["n_frames"])) for number, row in enumerate(rows)]


def _clip_info(parts: list[tuple[dict[str, Any], PieceRef]]) -> ClipInfo:
    parts = sorted(parts, key=lambda part: part[0]["piece"])
    first, pieces = parts[0][0], tuple(piece for _, piece in parts)
    if [row["piece"] for row, _ in parts] != list(range(len(parts))):
        raise UserError(
            f"clip {first['clip_id']} lacks a piece, or has one twice", str(pieces[0].path.parent)
        )
    return ClipInfo(
        clip_id=first["clip_id"],
        person_id=first["person_id"],
        video_id=first["video_id"],
        split=first["split"],
        start=first["start"],
        end=first["end"],
        n_frames=sum(piece.n_frames for piece in pieces),
        fps=float(first["fps"]),
        height=first["height"],
        width=first["width"],
        source=first["source"],
        pieces=pieces,
    )
