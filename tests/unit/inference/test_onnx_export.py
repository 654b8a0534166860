"""The exported graphs, run by onnxruntime, against the model; skipped where the extra ``onnx`` is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safa.errors import UserError
from safa.head.model import HeadCode
from safa.inference import onnx_export
from safa.inference.onnx_export import CODE, HeadMaps, export_onnx
from safa.models.keypoints import Keypoints
from safa.models.safa import FaceState, Safa, SourceCache


def arrays(face: FaceState) -> dict[str, Any]:
    """A state as the graph ``driving`` gives it."""
    code = {name: getattr(face.code, name) for name in CODE}
    keypoints = {"keypoints": face.keypoints.value, "jacobians": face.keypoints.jacobian}
    return {name: value.numpy() for name, value in {**keypoints, **code, "feature": face.feature}.items()}


def state(given: dict[str, Any]) -> FaceState:
    """The other way round."""
    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    code = HeadCode(**{name: tensors[name] for name in CODE})
    return FaceState(Keypoints(tensors["keypoints"], tensors["jacobians"]), code, tensors["feature"])


def seen_by_the_graph(model: Safa, image: torch.Tensor, source: dict[str, Any]) -> SourceCache:
    """A source whose state is the graph's: where rounding moves a mesh, pixels see other faces."""
    cache, face = model.prepare_source(image), state(source)
    geometry = model.tdmm.geometry(face.code)
    side, albedo = model.tdmm.render_side(geometry), model.tdmm.texture(image, geometry)
    return replace(cache, face=face, side=side, albedo=albedo)


@pytest.mark.slow
def test_graphs_equal_the_model(model: Safa, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    folder = tmp_path / "graphs"
    files = export_onnx(model, folder, "a model")
    assert sorted(file.name for file in files) == sorted(path.name for path in folder.iterdir())
    manifest = json.loads((folder / "graphs.json").read_text())
    assert (manifest["order"], manifest["model"]) == (["source", "driving", "generator"], "a model")
    paths = {name: str(folder / f"{name}.onnx") for name in manifest["order"]}
    sessions = {name: onnxruntime.InferenceSession(path) for name, path in paths.items()}

    def run(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        (described,) = (graph for graph in manifest["graphs"] if graph["name"] == name)
        for each in described["inputs"]:  # the manifest says what is taken
            wanted = [size for size in each["shape"] if size != "batch"]
            assert list(inputs[each["name"]].shape)[-len(wanted) :] == wanted
        taken = {each["name"]: inputs[each["name"]] for each in described["inputs"]}
        outputs = sessions[name].run(None, taken)
        return dict(zip([each["name"] for each in described["outputs"]], outputs, strict=True))

    size = model.config.image_size
    images = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(2))
    photo = images[:1].numpy()
    source = run("driving", {"image": photo})
    of_source = {f"source_{name}": source[name] for name in ("keypoints", "jacobians")}
    of_source |= {"source_image": photo, "source_features": run("source", {"image": photo})["features"]}
    maps = HeadMaps(model.tdmm, photo, source)
    for frames in (images[1:2], images[1:]):
        driving = run("driving", {"image": frames.numpy()})
        driving["shape"] = np.repeat(source["shape"], len(frames), 0)
        of_driving = {f"driving_{name}": driving[name] for name in ("keypoints", "jacobians", "feature")}
        got = run("generator", {**of_source, **of_driving, **maps.of(driving)})["prediction"]
        with torch.inference_mode():
            expected = model.reenact(seen_by_the_graph(model, images[:1], source), state(driving))
            for name, value in arrays(model.analyse(frames)).items():
                error, size_of = np.abs(driving[name] - value).max(), max(1, np.abs(value).max())
                assert name == "shape" or error < 1e-4 * size_of, name
        assert np.abs(got - expected.prediction.numpy()).max() < 1e-4
        assert expected.prediction.std() > 1e-3


def test_without_the_package_it_is_one_line(
    model: Safa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="export: the package onnx is not installed"):
        export_onnx(model, tmp_path / "graphs")
    assert not (tmp_path / "graphs").exists()
