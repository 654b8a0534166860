"""Detectors and landmarks of the face-alignment package (1.5). This is the only file that knows it.

The package downloads weights by itself when it is asked for a detector; here it never does. Every weight
comes from a folder of the user's, and ``check`` loads all of them once before a job starts, so that errors
are reported there and not on a worker.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from safa.batching import batched
from safa.config.preprocess import DetectorConfig, FaceAlignmentLandmarks
from safa.data.detectors import Face, chosen
from safa.data.landmarks import Landmarks
from safa.data.schema import NUM_LANDMARKS
from safa.errors import UserError
from safa.files import Location, is_file, join, local_file, missing, shown
from safa.weights import read_weights

# Names under which the weights are published. The first file is the network, the second its anchors.
DETECTOR_FILES: dict[str, tuple[str, ...]] = {
    "sfd": ("s3fd-619a316812.pth",),
    "blazeface": ("blazeface.pth", "anchors.npy"),
    "blazeface_back": ("blazefaceback.pth", "anchorsback.npy"),
    "retinaface": ("retinaface_mobilenet0.25.pth",),
    "yunet": ("face_detection_yunet_2023mar.onnx",),
    "scrfd": ("scrfd_2.5g_bnkps.onnx",),
}
LANDMARK_FILE = "2DFAN4-11f355bf06.pth.tar"
NUM_HOURGLASSES = 4  # of that network

# Each detector's name for the lowest score of a face.
_THRESHOLD_NAMES = {
    "sfd": "filter_threshold",
    "blazeface": "min_score_thresh",
    "blazeface_back": "min_score_thresh",
    "retinaface": "confidence_threshold",
    "yunet": "score_threshold",
    "scrfd": "confidence_threshold",
}
_BLAZE = {"blazeface": 128, "blazeface_back": 256}  # px, side of the network's input


def check(config: DetectorConfig | FaceAlignmentLandmarks) -> None:
    """Load all weights once, on the CPU.

    Raises:
        UserError: the package or a weight file is missing, or a file is not what its name says.
    """
    if isinstance(config, FaceAlignmentLandmarks):
        check(config.detector)
        _landmark_network(config.weights, "cpu")
        return
    LibraryDetector(config.model_copy(update={"device": "cpu"}))


class LibraryDetector:
    """A ``FaceDetector`` of the package.

    Raises:
        UserError: as ``check``.
    """

    def __init__(self, config: DetectorConfig) -> None:
        self._name, self._batch = config.name, config.batch
        with ExitStack() as stack:
            names, folder = DETECTOR_FILES[config.name], config.weights
            assert folder is not None, "settings of the package name a folder of weights"
            files = [stack.enter_context(_local(folder, name)) for name in names]
            self._detector = _open(config, files)

    @property
    def reference_scale(self) -> float:
        """Which width plus height of a face fills the landmark network's input, times 200."""
        return float(self._detector.reference_scale)

    @torch.inference_mode()
    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[tuple[Face, ...]]:
        """All faces of each frame; frames are (H, W, 3) uint8 RGB of one size."""
        detections: list[tuple[Face, ...]] = []
        for chunk in batched(frames, self._batch):
            batch = np.stack(chunk)
            factor = 1.0
            if self._name in _BLAZE:
                batch, factor = _fitted(batch, _BLAZE[self._name])
            rows = self._detector.detect_from_batch(torch.from_numpy(batch.transpose(0, 3, 1, 2).copy()))
            detections += [tuple(_face(row, factor) for row in faces if len(row) == 5) for faces in rows]
        return detections


class LibraryLandmarks:
    """Detector and landmark network together: stored frames to ``Landmarks``.

    Raises:
        UserError: as ``check``.
    """

    def __init__(self, config: FaceAlignmentLandmarks) -> None:
        self._config = config
        self._detector = LibraryDetector(config.detector)
        self._network = _landmark_network(config.weights, config.detector.device)
        self._tools = _package("utils")

    def __call__(self, frames: Sequence[NDArray[np.uint8]]) -> Landmarks:
        """Estimate the landmarks of the chosen face of each frame; NaN where there is none."""
        points = np.full((len(frames), NUM_LANDMARKS, 2), np.nan, dtype=np.float32)
        scores = np.full(len(frames), np.nan, dtype=np.float32)
        height, width = frames[0].shape[:2]
        middle = (width / 2, height / 2)  # the crop is centred on the face track
        faces = [chosen(found, self._config.choose, middle) for found in self._detector.detect(frames)]
        seen = [(number, face) for number, face in enumerate(faces) if face is not None and face.area > 0]
        batch = self._config.detector.batch
        for part in batched(seen, batch):
            points[[number for number, _ in part]] = self.landmarks(
                [frames[number] for number, _ in part], [face for _, face in part]
            )
        for number, face in seen:
            scores[number] = face.score
        return Landmarks(points, scores)

    @torch.inference_mode()
    def landmarks(self, frames: Sequence[NDArray[np.uint8]], faces: Sequence[Face]) -> NDArray[np.float32]:
        """Estimate landmarks, (N, 68, 2) px, of one face in each of N frames, all in one batch.

        The package's own loop runs the network once per frame; the arithmetic is the same.
        """
        inputs = [self._input_area(face) for face in faces]
        crops = [
            self._tools.crop(frame, centre, scale)
            for frame, (centre, scale) in zip(frames, inputs, strict=True)
        ]
        device = self._config.detector.device
        batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(device, torch.float32) / 255
        heat = self._network(batch)[-1]
        if self._config.flip:
            heat = heat + self._tools.flip(self._network(self._tools.flip(batch))[-1], is_label=True)
        maps = heat.float().cpu().numpy()
        points = [
            self._tools.get_preds_fromhm(maps[number : number + 1], centre, scale)[1][0]
            for number, (centre, scale) in enumerate(inputs)
        ]
        return np.stack(points).astype(np.float32)

    def _input_area(self, face: Face) -> tuple[NDArray[np.float64], float]:
        """Centre and scale of the landmark network's input around a face, as the package computes them."""
        width, height = face.right - face.left, face.bottom - face.top
        centre_y = face.bottom - height / 2 - height * self._tools.CENTER_Y_OFFSET
        centre = np.array([face.right - width / 2, centre_y])
        return centre, (width + height) / self._detector.reference_scale


def _landmark_network(folder: Location, device: str) -> torch.nn.Module:
    path = _file(folder, LANDMARK_FILE)
    network: torch.nn.Module = _package("models").FAN(NUM_HOURGLASSES)
    try:
        network.load_state_dict(dict(read_weights(path)))
    except UserError as error:
        raise UserError(
            f"not the weights of the landmark network ({error.what})", shown(path), error.fix
        ) from None
    except Exception as error:
        raise UserError(
            f"not the weights of the landmark network ({type(error).__name__}: {_first_line(error)})",
            shown(path),
        ) from None
    return network.to(device).eval()


def _open(config: DetectorConfig, files: Sequence[Path]) -> Any:
    """The package's detector of these files."""
    arguments: dict[str, Any] = {"path_to_detector": _weights(config.name, files[0])}
    if config.name in _BLAZE:
        arguments |= {"path_to_anchor": str(files[1]), "back_model": config.name == "blazeface_back"}
    arguments[_THRESHOLD_NAMES[config.name]] = config.threshold
    module = _package("detection." + config.name.removesuffix("_back"))
    try:
        return module.FaceDetector(device=config.device, **arguments)
    except ImportError as error:
        raise UserError(str(error), f"detector {config.name}") from None
    except Exception as error:  # torch, numpy and OpenCV each have errors of their own for a bad file
        raise UserError(
            f"not the weights of {config.name} ({type(error).__name__}: {_first_line(error)})",
            str(files[0]),
        ) from None


def _weights(name: str, path: Path) -> str | io.BytesIO:
    """What the package reads a detector's weights from.

    The package reads PyTorch files with torch's own reader. It gets a copy in memory instead of a stranger's
    file: what our reader took from it, written anew.
    """
    if path.suffix != ".pth":
        return str(path)
    try:
        state = dict(read_weights(path))
    except UserError as error:
        raise UserError(f"not the weights of {name} ({error.what})", str(path), error.fix) from None
    copy = io.BytesIO()
    torch.save(state, copy)
    copy.seek(0)
    return copy


def _package(part: str) -> Any:
    if importlib.util.find_spec("face_alignment") is None:
        raise UserError(
            "face-alignment is not installed",
            "",
            "Run `make install`, or .venv/bin/python -m pip install -e '.[faces]'.",
        )
    return importlib.import_module(f"face_alignment.{part}")


def _file(folder: Location, name: str) -> Location:
    path = join(folder, name)
    if not is_file(path):
        raise UserError(
            missing(folder, f"the weights {name} are missing"),
            shown(folder),
            "docs/data.md says where to get them.",
        )
    return path


def _local(folder: Location, name: str) -> AbstractContextManager[Path]:
    return local_file(_file(folder, name))


def _fitted(batch: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], float]:
    """Frames as BlazeFace needs them, and the factor from its pixels back to theirs.

    By itself it would crop the centre square and miss faces beside it, and its rounding is off by a pixel
    for some sizes. Here frames are padded at the right or bottom, and scaled to exactly ``side``.
    """
    import cv2  # comes with face-alignment

    height, width = batch.shape[1:3]
    longer = max(height, width)
    squares = np.pad(batch, ((0, 0), (0, longer - height), (0, longer - width), (0, 0)))
    scaled = [cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA) for square in squares]
    return np.stack(scaled).astype(np.uint8), longer / side


def _face(row: Any, factor: float) -> Face:
    left, top, right, bottom, score = (float(value) for value in row)
    return Face(left, top, right, bottom, score).scaled(factor, factor)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200]
