"""README and guides state the numbers of docs/measured.json; docs/measured.py reads a demo's own files."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measured_numbers", ROOT / "docs" / "measured.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = _script()
DOCUMENTS = sorted({place.document for place in script.PLACES})


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_state_what_was_measured(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert script.filled(document, text, script.read_record()) == text, "run: python docs/measured.py"


def test_every_number_is_written_somewhere_and_changes_its_document() -> None:
    written = [name for place in script.PLACES for name in re.findall(r"\?P<(\w+)>", place.text)]
    assert sorted(written) == sorted(script.FORMATS)
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    other = {"demo": {"steps": {"pretrain": 12345, "train": 7}, "seconds": {"pretrain": 1, "train": 2}}}
    assert "12,345 and 7 steps, in 1 and 2 seconds" in script.filled("docs/training.md", text, other)


def test_a_sentence_that_is_gone_is_noticed() -> None:
    with pytest.raises(ValueError, match="is there 0 times"):
        script.filled("docs/training.md", "nothing", script.read_record())


def test_a_demo_is_read_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_expression", lambda run: {"3dmm mouth_opening_correlation": 0.5})
    scores = dict.fromkeys(("psnr", "ssim", "landmark_nme"), 0.25)
    files = {
        "stages.json": {"pretrain": {"seconds": 60.4}, "train": {"seconds": 120.0}},
        "pretrain/manifest.json": {"counts": {"steps": 7}},
        "train/manifest.json": {"counts": {"steps": 9}},
        "report/metrics.json": {**scores, **{f"{key}_copy_source": 0.5 for key in scores}},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    found = script.measured_demo(tmp_path)
    assert found["seconds"] == {"pretrain": 60, "train": 120}
    assert found["steps"] == {"pretrain": 7, "train": 9}
    assert (found["psnr"], found["psnr_copy_source"]) == (0.25, 0.5)
    assert script.FORMATS["minutes"]({"demo": found}) == "3"


def test_the_size_of_an_environment_knows_what_is_for_gpus(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    for name, size in (("torch", 30_000_000), ("nvidia", 20_000_000), ("triton", 10_000_000)):
        (packages / name).mkdir(parents=True)
        (packages / name / "file").write_bytes(bytes(size))
    found = script.measured_install(tmp_path, 61.7)
    assert found["seconds"] == 62
    assert (found["gb"], found["cuda_gb"]) == pytest.approx((0.06, 0.03), abs=0.011)


def test_the_picture_of_the_demo_is_cut_out_of_its_strips() -> None:
    pytest.importorskip("torch", reason="strips are drawn of tensors")
    from safa.visualize.panels import Panel, strip

    names = [*script.PANELS]
    for place in set(range(script.PANELS_OF_STRIP)) - set(script.PLACES_IN_STRIP):
        names.insert(place, f"other {place}")
    rows = [
        [Panel(name, np.full((64, 64, 3), 20 * number + row, np.uint8)) for number, name in enumerate(names)]
        for row in (0, 5)
    ]
    strips = [Image.fromarray(strip(rows, 192))] * 3
    picture = np.asarray(script.picture_of(strips))
    middles = picture[script.CAPTION + script.SIDE // 2 :: script.SIDE, script.SIDE // 2 :: script.SIDE, 0]
    expected = [20 * place for place in script.PLACES_IN_STRIP]
    assert middles.tolist() == [expected, [value + 5 for value in expected], expected]
