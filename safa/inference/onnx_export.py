"""The model as ONNX graphs, to run its networks elsewhere.

Three graphs, because a source is encoded once, every frame is analysed, and our rasteriser stands between
that and the generator: no ONNX operator draws a mesh. ``HeadMaps`` draws what the generator wants. All graphs
take and give float32, BatchNorm is folded into the weights, and Jacobians are inverted by the 2 x 2 formula.

PyTorch's older exporter writes them. The newer one takes several times as long, needs two packages more, and
fixed the length of the batch when it was tried.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from safa.errors import UserError
from safa.files import atomic_dir, check_folder, write_json
from safa.head.model import HeadCode
from safa.head.render import HeadRender
from safa.inference.folding import norms_folded
from safa.messages import INSTALL_ONNX
from safa.models.keypoints import Keypoints
from safa.models.safa import FaceState, Safa
from safa.models.tdmm import Tdmm

FORMAT = 1  # of the manifest
MANIFEST = "graphs.json"
OPSET = 20  # the first whose GridSample is that of today
BATCH = "batch"  # name of the dimension that a caller chooses
CODE = tuple(field.name for field in fields(HeadCode))
STATE = ("keypoints", "jacobians", *CODE, "feature")

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Graph:
    """One graph to export.

    Attributes:
        name: of its file, without the suffix.
        network: takes tensors, returns a tuple of tensors.
        inputs: example tensors by name; those in ``batched`` may have any length along the first dimension.
        outputs: names, in order.
    """

    name: str
    network: nn.Module
    inputs: Mapping[str, Tensor]
    batched: frozenset[str]
    outputs: tuple[str, ...]


class SourceGraph(nn.Module):
    """The source's features."""

    def __init__(self, model: Safa) -> None:
        super().__init__()
        self.generator = model.generator

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.generator.encode(image),)


class DrivingGraph(nn.Module):
    """What the model sees in a frame, ``STATE``."""

    def __init__(self, model: Safa) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        face: FaceState = self.model.analyse(image)
        code = (getattr(face.code, name) for name in CODE)
        return face.keypoints.value, face.keypoints.jacobian, *code, face.feature


class GeneratorGraph(nn.Module):
    """Motion and generator, from both states and the rendered maps to the prediction."""

    def __init__(self, model: Safa) -> None:
        super().__init__()
        self.generator = model.generator

    def forward(
        self,
        source_image: Tensor,
        source_features: Tensor,
        source_keypoints: Tensor,
        source_jacobians: Tensor,
        source_normals: Tensor,
        driving_keypoints: Tensor,
        driving_jacobians: Tensor,
        driving_feature: Tensor,
        reenact: Tensor,
        driving_normals: Tensor,
        motion_field: Tensor,
        driving_mask: Tensor,
    ) -> tuple[Tensor]:
        batch = driving_feature.shape[0]

        def repeat(tensor: Tensor) -> Tensor:
            return tensor.expand(batch, *tensor.shape[1:])  # (1, ...) -> (B, ...)

        unread = reenact  # the generator looks at four maps of a render, or at five
        render = HeadRender(
            *(unread, reenact, unread, driving_mask, repeat(source_normals), driving_normals),
            *(unread, unread, motion_field),
        )
        generated = self.generator(
            repeat(source_image),
            Keypoints(repeat(source_keypoints), repeat(source_jacobians)),
            Keypoints(driving_keypoints, driving_jacobians),
            render,
            driving_feature,
            source_features=repeat(source_features),
        )
        return (generated.prediction,)


class HeadMaps:
    """Draws the 3D head for the generator's graph: the source's side once, the driving side for each batch.

    Args:
        tdmm: of the model that was exported, e.g. ``safa.load(...).tdmm``.
        image: (1, 3, S, S) in [0, 1], the source.
        source: what the graph ``driving`` says of it, by name.
    """

    def __init__(self, tdmm: Tdmm, image: NDArray[np.float32], source: Arrays) -> None:
        self._tdmm = tdmm
        with torch.inference_mode():
            geometry = tdmm.geometry(_code(tdmm, source))
            self._albedo = tdmm.texture(_tensor(tdmm, image), geometry)
            self._side = tdmm.render_side(geometry)

    def of(self, driving: Arrays) -> dict[str, NDArray[np.float32]]:
        """Inputs of the graph ``generator`` by name, for heads (B, ...) with these parameters."""
        with torch.inference_mode():
            render = self._tdmm.render(
                self._side, self._tdmm.geometry(_code(self._tdmm, driving)), self._albedo
            )
        maps = {"source_normals": render.source_normals[:1]}
        maps |= {name: getattr(render, name) for name in DRIVING_MAPS}
        return {name: tensor.cpu().numpy() for name, tensor in maps.items()}


DRIVING_MAPS = ("reenact", "driving_normals", "motion_field", "driving_mask")


def _tensor(tdmm: Tdmm, array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(tdmm.uvcoords.device)


def _code(tdmm: Tdmm, state: Arrays) -> HeadCode:
    return HeadCode(**{name: _tensor(tdmm, state[name]) for name in CODE})


def export_onnx(model: Safa, folder: Path, about: str = "") -> list[Path]:
    """Write the three graphs and ``graphs.json``, which says what goes in and what comes out, atomically.

    Args:
        model: as it was loaded, on the CPU; it stays as it is.
        about: which model it is, for the manifest.

    Raises:
        UserError: the package onnx is missing, or the folder cannot be written.
    """
    if find_spec("onnx") is None:
        raise UserError("the package onnx is not installed", "export", INSTALL_ONNX)
    import onnx

    check_folder(folder)
    graphs = graphs_of(model)
    with atomic_dir(folder) as temporary:
        for graph in graphs:
            _export(graph, temporary / f"{graph.name}.onnx")
            onnx.checker.check_model(str(temporary / f"{graph.name}.onnx"))
        write_json(temporary / MANIFEST, _manifest(graphs, temporary, model, about))
    return [folder / f"{graph.name}.onnx" for graph in graphs] + [folder / MANIFEST]


@torch.no_grad()
def graphs_of(model: Safa) -> tuple[Graph, Graph, Graph]:
    """The graphs in the order in which they run, each with inputs to try it with."""
    fast = norms_folded(model)
    size = model.config.image_size
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    source, driving = fast.prepare_source(image[:1]), fast.analyse(image)
    render = fast.tdmm.render(source.side, fast.tdmm.geometry(driving.code), source.albedo)
    of_source = {
        "source_image": source.image,
        "source_features": source.features,
        "source_keypoints": source.face.keypoints.value,
        "source_jacobians": source.face.keypoints.jacobian,
        "source_normals": render.source_normals[:1],
    }
    of_driving = {
        "driving_keypoints": driving.keypoints.value,
        "driving_jacobians": driving.keypoints.jacobian,
        "driving_feature": driving.feature,
        **{name: getattr(render, name) for name in DRIVING_MAPS},
    }
    return (
        Graph("source", SourceGraph(fast), {"image": source.image}, frozenset(), ("features",)),
        Graph("driving", DrivingGraph(fast), {"image": image}, frozenset({"image"}), STATE),
        Graph(
            *("generator", GeneratorGraph(fast), {**of_source, **of_driving}),
            *(frozenset(of_driving), ("prediction",)),
        ),
    )


def _export(graph: Graph, path: Path) -> None:
    names = list(graph.inputs)
    length = {name: {0: BATCH} for name in (*graph.batched, *(graph.outputs if graph.batched else ()))}
    with warnings.catch_warnings():
        # That there is a newer exporter, that sizes are taken for constant, and what is not folded.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.network.eval(),
            tuple(graph.inputs.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=list(graph.outputs),
            dynamic_axes=length,
        )


def _manifest(graphs: tuple[Graph, ...], folder: Path, model: Safa, about: str) -> dict[str, Any]:
    """What the files hold; inputs that a graph does not read are not in it."""
    import onnx

    described = []
    for graph in graphs:
        content = onnx.load(str(folder / f"{graph.name}.onnx")).graph
        described.append(
            {
                "name": graph.name,
                "file": f"{graph.name}.onnx",
                "inputs": [_described(value) for value in content.input],
                "outputs": [_described(value) for value in content.output],
            }
        )
    return {
        "format": FORMAT,
        "model": about,
        "image_size": model.config.image_size,
        "opset": OPSET,
        "order": [graph.name for graph in graphs],
        "graphs": described,
    }


def _described(value: Any) -> dict[str, Any]:
    """Name and shape of an input or output; a name stands for a length that the caller chooses."""
    shape = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return {"name": value.name, "shape": shape, "type": "float32"}
