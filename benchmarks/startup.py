"""How long a person waits for `safa`: `--help`, and `safa animate` up to its first frame, part by part.

Times are of the second of two runs, when files are in the system's cache. The model has the published sizes
(256 px) and random weights; give `--checkpoint` for another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import json, sys, time
began = time.perf_counter()
import safa.inference.loading
imported = time.perf_counter()
animator = safa.inference.loading.open_animator(sys.argv[1], device="cpu")
loaded = time.perf_counter()
video = animator.animate(sys.argv[2], sys.argv[3], relative=True, crop=False)
prepared = time.perf_counter()
next(iter(video))
done = time.perf_counter()
names = ("imports", "load the model", "read the photo, prepare the source", "first batch of frames")
times = (imported - began, loaded - imported, prepared - loaded, done - prepared)
print(json.dumps(dict(zip(names, times))))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs = _inputs(Path(folder))
        checkpoint = arguments.checkpoint or _random_model(Path(folder) / "model")
        for _ in range(2):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "safa.cli", "--help"], check=True, stdout=subprocess.DEVNULL
            )
            print_help = time.perf_counter() - started
            started = time.perf_counter()
            command = [sys.executable, "-c", CHILD, str(checkpoint), *inputs]
            parts = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            whole = time.perf_counter() - started
    print(f"safa --help                              {print_help:6.2f} s")
    print(f"safa animate, to the first frame         {whole:6.2f} s")
    for name, seconds in parts.items():
        print(f"  {name:<38} {seconds:6.2f} s")
    print(f"  {'start and end of Python':<38} {whole - sum(parts.values()):6.2f} s")


def _inputs(folder: Path) -> list[str]:
    import numpy as np
    from PIL import Image

    from safa.data.video import write_video

    frames = np.random.default_rng(0).integers(0, 255, (16, 256, 256, 3), np.uint8)
    Image.fromarray(frames[0]).save(folder / "photo.png")
    write_video(folder / "video.mp4", iter(frames), 25.0)
    return [str(folder / "photo.png"), str(folder / "video.mp4")]


def _random_model(folder: Path) -> Path:
    from safa.checkpoint.native import ModelInfo, save_model
    from safa.config import ModelConfig
    from safa.head import load_head_assets
    from safa.models.safa import Safa

    config = ModelConfig()
    save_model(folder, Safa(config, load_head_assets(config.head)), ModelInfo("full", config, 0, "random"))
    return folder


if __name__ == "__main__":
    main()
