"""Ways to animate: the reference's, ours in each precision, the exported graphs. A batch of frames a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from measuring.published_operators import use_published_operators
from torch import Tensor

from safa.inference.device_choice import instructions_for_bfloat16
from safa.inference.model_runner import ModelRunner
from safa.inference.motion_transfer import absolute
from safa.inference.onnx_export import HeadMaps, export_onnx
from safa.models.safa import Safa
from safa.visualize.images import RgbImage


class Way(Protocol):
    """Animates a source by driving frames."""

    def __call__(self, driving: list[RgbImage]) -> Tensor:
        """Predictions (B, 3, S, S), finished on the device."""


class Redone:
    """The reference's loop: published operators, BatchNorm as it is, NCHW, the source done for each batch.

    Its rasteriser is ours; the authors' takes seconds on a CPU.
    """

    def __init__(self, model: Safa, source: RgbImage, device: torch.device, dtype: torch.dtype) -> None:
        self._runner = ModelRunner(model, device, 1)  # for its frames
        use_published_operators(model)
        self._model, self._device, self._dtype = model.to(device), device, dtype
        self._source = source

    @torch.inference_mode()
    def __call__(self, driving: list[RgbImage]) -> Tensor:
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            source, images = (self._runner.to_batch(each).contiguous() for each in ([self._source], driving))
            cache = self._model.prepare_source(source)
            state = absolute(cache.face, self._model.analyse(images))
            prediction = self._model.reenact(cache, state).prediction
        wait(self._device)
        return prediction


class Engine:
    """What ``safa animate`` runs: the source done once."""

    def __init__(self, model: Safa, source: RgbImage, device: torch.device, dtype: torch.dtype) -> None:
        self.runner = ModelRunner(model, device, 1, dtype)
        self._device, self._cache = device, self.runner.prepare(source)

    @torch.inference_mode()
    def __call__(self, driving: list[RgbImage]) -> Tensor:
        model = self.runner.model
        with self.runner.autocast():
            state = absolute(self._cache.face, model.analyse(self.runner.to_batch(driving)))
            prediction = model.reenact(self._cache, state).prediction
        wait(self._device)
        return prediction


class Exported:
    """The ONNX graphs, run by a session each.

    Args:
        opened: a path to a function from inputs by name to the list of outputs, and the names that it takes.
    """

    def __init__(self, model: Safa, source: RgbImage, folder: Path, opened: Callable[[Path], Any]) -> None:
        if not folder.exists():
            export_onnx(model, folder)
        self._driving, self._generator = opened(folder / "driving.onnx"), opened(folder / "generator.onnx")
        photo = _planes([source])
        (features,) = opened(folder / "source.onnx")({"image": photo})
        face = self._state(photo)
        self._maps, self._shape = HeadMaps(model.tdmm, photo, face), face["shape"]
        self._source = {"source_image": photo, "source_features": features}
        self._source |= {f"source_{name}": face[name] for name in ("keypoints", "jacobians")}

    def __call__(self, driving: list[RgbImage]) -> Tensor:
        state = self._state(_planes(driving))
        state["shape"] = np.repeat(self._shape, len(driving), 0)
        inputs = {f"driving_{name}": state[name] for name in ("keypoints", "jacobians", "feature")}
        (prediction,) = self._generator({**self._source, **inputs, **self._maps.of(state)})
        return torch.from_numpy(prediction)

    def _state(self, images: Any) -> dict[str, Any]:
        from safa.inference.onnx_export import STATE

        return dict(zip(STATE, self._driving({"image": images}), strict=True))


def _planes(frames: list[RgbImage]) -> Any:
    return np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def by_onnxruntime(threads: int) -> Callable[[Path], Any]:
    """Opens graphs with onnxruntime on the CPU."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads

    def opened(path: Path) -> Any:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        return lambda inputs: session.run(None, {name: inputs[name] for name in names})

    return opened


def by_openvino(threads: int) -> Callable[[Path], Any]:
    """Opens graphs with openvino on the CPU, in float32."""
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}

    def opened(path: Path) -> Any:
        network = core.compile_model(str(path), "CPU", hints)

        def run(inputs: Mapping[str, Any]) -> list[Any]:
            names = [next(name for name in each.get_names() if name in inputs) for each in network.inputs]
            results = network({name: np.ascontiguousarray(inputs[name]) for name in names})
            return [results[output] for output in network.outputs]

        return run

    return opened


def wait(device: torch.device) -> None:
    """Until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is worth measuring: without instructions for it a CPU takes minutes."""
    return device.type == "cuda" or bool(instructions_for_bfloat16())


def ways_of(
    load: Callable[[], Safa], source: RgbImage, device: torch.device, threads: int, folder: Path
) -> dict[str, Way]:
    """Every way that this machine has; the first is what the others are compared with."""
    redone, engine = "source redone, float32", "engine, float32"
    ways: dict[str, Way] = {
        redone: Redone(load(), source, device, torch.float32),
        engine: Engine(load(), source, device, torch.float32),
    }
    if has_bfloat16(device):
        ways["source redone, bf16"] = Redone(load(), source, device, torch.bfloat16)
        ways["engine, bf16"] = Engine(load(), source, device, torch.bfloat16)
    else:
        print("bf16: this machine has no instructions for it, so it is not measured")
    for name, opener in (("onnxruntime", by_onnxruntime), ("openvino", by_openvino)):
        if device.type == "cpu" and find_spec("onnx") and find_spec(name):
            ways[f"exported, {name}"] = Exported(load(), source, folder, opener(threads))
        else:
            print(f"{name}: not installed, or no CPU, so it is not measured")
    return ways
