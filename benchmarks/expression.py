"""Whether a trained model moves mouths and eyes: its 3D head alone, and its predictions, by another's eye.

For each data set of clips: frame 0 of a clip is the source, every ``--every``-th frame drives. Of mouth
opening, mouth width and eye opening (safa/metrics/expression.py) it prints, averaged over clips,

- ``3dmm``: correlation and gain of the 3D head's own 68 points against the landmarks of the data set;
- ``prediction``: the same of the predicted pictures against the driving ones, both measured by dlib;
- ``ceiling``: dlib on the driving pictures against the landmarks of the data set;

then PSNR beside that of copying the source, the landmark error of the 3D head, and the mean distance between
keypoints over the width of the face.

Run: python benchmarks/expression.py --checkpoint RUN --clips DATA [--clips MORE] [--split test]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from safa.checkpoint.native import load_model
from safa.data.clip_store import ClipStore
from safa.evaluation.face_scorers import DlibFaces
from safa.head.model import landmarks_px
from safa.metrics import clip_score, image_scores, landmark_scores
from safa.metrics.expression import ExpressionSums
from safa.models.safa import Safa

JAW_ENDS = (0, 16)  # iBUG landmarks: the width of a face
Scores = dict[str, float]


@dataclass(frozen=True)
class Clip:
    """Frames (F, 3, S, S) in [0, 1] and their landmarks (F, 68, 2) px; the first is the source."""

    frames: Tensor
    landmarks: Tensor


def main() -> int:
    """Print the table; with ``--json`` as one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="run or model folder of the end-to-end stage")
    parser.add_argument("--clips", required=True, action="append", help="data set of the model's size")
    parser.add_argument("--split", default=None, help="test, train; all clips by default")
    parser.add_argument("--every", type=int, default=2, help="every n-th frame drives")
    parser.add_argument("--most", type=int, default=60, help="driving frames of a clip at most")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    model, _ = load_model(asked.checkpoint)
    dlib = DlibFaces()
    for where in asked.clips:
        store = ClipStore(where)
        rows = [
            scores_of(model, dlib, read(store, int(number), asked.every, asked.most))
            for number in store.numbers(asked.split)
        ]
        if not rows:
            sys.stdout.write(f"{where}: no clips of the split {asked.split!r}\n")
            continue
        means = averages(rows)
        if asked.json:
            sys.stdout.write(json.dumps({"clips": where, "count": len(rows), **means}) + "\n")
        else:
            sys.stdout.write(f"{where}: {len(rows)} clips\n" + table(means))
    return 0


def read(store: ClipStore, number: int, every: int, most: int) -> Clip:
    """Decode frame 0 and the driving frames of a clip."""
    indices = [0, *range(1, store.n_frames(number), every)][: most + 1]
    frames = np.stack(store.frames(number, indices))
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255  # (F, S, S, 3) -> (F, 3, S, S)
    return Clip(images, torch.from_numpy(np.array(store.landmarks(number, indices))))


@torch.no_grad()
def scores_of(model: Safa, dlib: DlibFaces, clip: Clip) -> Scores:
    """All figures of one clip."""
    source, driving, true = clip.frames[:1], clip.frames[1:], clip.landmarks[1:]
    state = model.analyse(driving)
    own = landmarks_px(model.tdmm.geometry(state.code), driving.shape[-1])
    prediction = model.reenact(model.prepare_source(source), state).prediction
    seen, wanted = dlib.landmarks(prediction), dlib.landmarks(driving)
    scores: Scores = {}
    for name, (points, target) in {
        "3dmm": (own, true),
        "prediction": (seen, wanted),
        "ceiling": (wanted, true),
    }.items():
        sums = ExpressionSums()
        sums.add(points, target)
        scores |= {f"{name} {key}": value for key, value in sums.scores().items()}
    frames = image_scores(prediction, source, driving) | landmark_scores(own, clip.landmarks[:1], true)
    scores |= {name: clip_score(values.numpy()) for name, values in frames.items()}
    return scores | {"keypoint distance": keypoint_distance(state.keypoints.value, clip)}


def keypoint_distance(keypoints: Tensor, clip: Clip) -> float:
    """Mean distance between keypoints (F, K, 2), over the mean width of the face."""
    pairs = [
        (keypoints[:, a] - keypoints[:, b]).norm(dim=1)  # (F, K, 2) -> (F,)
        for a, b in combinations(range(keypoints.shape[1]), 2)
    ]
    side = clip.frames.shape[-1]
    jaw = clip.landmarks[:, JAW_ENDS[0]] - clip.landmarks[:, JAW_ENDS[1]]
    width = jaw.norm(dim=1).nanmean() * 2 / (side - 1)  # px to normalised coordinates
    return float(torch.stack(pairs).mean() / width)


def averages(rows: list[Scores]) -> Scores:
    """Mean of each figure over the clips that have it."""
    values = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    known = {name: [value for value in each if np.isfinite(value)] for name, each in values.items()}
    return {name: float(np.mean(each)) if each else float("nan") for name, each in known.items()}


def table(means: Scores) -> str:
    """Movements as rows, ``3dmm``, ``prediction`` and ``ceiling`` as columns; the rest below."""
    lines = [f"{'':16}" + "".join(f"{name:>22}" for name in ("3dmm", "prediction", "ceiling"))]
    for movement in ("mouth_opening", "mouth_width", "eye_opening"):
        cells = (
            f"{means[f'{name} {movement}_correlation']:12.2f} x{means[f'{name} {movement}_gain']:<8.2f}"
            for name in ("3dmm", "prediction", "ceiling")
        )
        lines.append(f"{movement:16}" + "".join(cells))
    rest = ("psnr", "psnr_copy_source", "ssim", "ssim_copy_source", "landmark_nme", "keypoint distance")
    lines += [f"{name:24}{means[name]:8.3f}" for name in rest if name in means]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
