"""metrics.jsonl survives crashes and resumes; the curves are drawn from it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from safa.training.metrics_logger import append_metrics, draw_curves, drop_metrics_after, read_metrics


def _write(path: Path) -> None:
    for step in (10, 20, 30):
        append_metrics(path, {"kind": "train", "step": step, "losses": {"landmark": 30.0 / step, "gan": 0.0}})
        scores = {"psnr": float(step), "psnr_copy_source": 12.0}
        append_metrics(path, {"kind": "validate", "step": step, "scores": scores})


def test_rows_after_the_resumed_step_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path)
    drop_metrics_after(path, 20)
    assert [row["step"] for row in read_metrics(path)] == [10, 10, 20, 20]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path)
    path.write_text(path.read_text()[:-20])
    assert len(read_metrics(path)) == 5
    drop_metrics_after(path, 30)
    append_metrics(path, {"kind": "train", "step": 40, "losses": {}})
    assert [row["step"] for row in read_metrics(path)] == [10, 10, 20, 20, 30, 40]


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_curves_are_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path)
    draw_curves(read_metrics(path), tmp_path / "curves.png", "a run")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] > 800
        assert len(image.convert("RGB").getcolors(10**6) or []) > 20


def test_no_records_no_picture(tmp_path: Path) -> None:
    draw_curves([], tmp_path / "curves.png", "a run")
    assert list(tmp_path.iterdir()) == []
