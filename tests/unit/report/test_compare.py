from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safa.errors import UserError
from safa.evaluation.frame_scores import SCORES
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.results import ClipResult
from safa.report.compare import (
    Run,
    _most_different,
    compare,
    differences_of,
    read_run,
    warnings_of,
    write_comparison,
)
from safa.report.content import LEAST_CLIPS, write_clips

MakeRun = Callable[..., Path]


class Page(HTMLParser):
    """Collects tags, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """``make_run("a", psnr=[...], l1=[...])``: the files of a finished evaluation of clips p00, p01, ..."""

    def make(
        name: str, title: str = "Run", numbers: dict[str, float] | None = None, **scores: Sequence[float]
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        results = []
        for number in range(len(next(iter(scores.values())))):
            clip = f"p{number:02d}#v#000000#000096"
            known = {key: values[number] for key, values in scores.items()}
            values = dict.fromkeys(SCORES, math.nan) | known
            job = EvaluationJob("reconstruction", clip, clip)
            results.append(ClipResult(job, "p", "p", 96, 25.0, values, 1.0))
        write_clips(folder / "clips.parquet", results, "clips")
        counts = {"in": len(results), "ok": len(results), "quarantined": 0}
        (folder / "metrics.json").write_text(json.dumps({"counts": counts} | (numbers or {})))
        settings = {"title": title, "clips_sha256": "same", "frames": None, "files_sha256": "x"}
        (folder / "manifest.json").write_text(json.dumps({"settings": settings}))
        return folder

    return make


def runs(*folders: Path) -> list[Run]:
    return [read_run(folder) for folder in folders]


def test_differences_are_paired_over_shared_clips(make_run: MakeRun) -> None:
    first = make_run("a", psnr=[10.0, 30.0, 20.0, 25.0, 20.0, 22.5, 99.0])
    # A little better on every clip; one clip less.
    second = make_run("b", psnr=[11.0, 31.5, 21.0, 26.5, 21.0, 24.0])
    (line,) = compare(runs(first, second))
    assert (line.metric.key, line.n_clips) == ("psnr", 6)
    reference, other = line.scores
    assert reference.value == pytest.approx(21.25)
    assert other.difference == pytest.approx(1.25)
    # Clips differ by 20 dB among themselves, the differences by half a dB: pairing makes it certain.
    assert (other.difference_interval.low, other.difference_interval.high) == (
        pytest.approx(1.0, abs=0.13),
        pytest.approx(1.5, abs=0.13),
    )
    assert other.verdict == "better"


@pytest.mark.parametrize(("shift", "verdict"), [(0.02, "worse"), (-0.02, "better")])
def test_better_knows_which_way_a_metric_goes(make_run: MakeRun, shift: float, verdict: str) -> None:
    l1 = np.linspace(0.1, 0.2, 6)
    lines = compare(runs(make_run("a", l1=list(l1)), make_run("b", l1=list(l1 + shift))))
    assert lines[0].scores[1].verdict == verdict


def test_a_movement_is_better_the_nearer_its_gain_is_to_one(make_run: MakeRun) -> None:
    first, second = (
        make_run("a", mouth_opening_gain=[0.9, 1.1, 0.95, 1.05, 1.0]),
        make_run("b", mouth_opening_gain=[1.5, 0.5, 1.5, 0.5, 1.0]),
    )
    (line,) = compare(runs(first, second))
    # Both have a mean of 1: what is judged, and shown, is how far clips are from it.
    assert line.scores[1].value == line.scores[0].value == pytest.approx(1.0)
    assert line.scores[1].difference == pytest.approx(0.4 - 0.06)
    assert line.scores[1].difference_interval.low > 0
    assert line.scores[1].verdict == "worse"


def test_a_few_clips_make_no_verdict(make_run: MakeRun) -> None:
    for number, verdict in ((LEAST_CLIPS - 1, "unclear"), (LEAST_CLIPS, "better")):
        folders = (
            make_run(f"{name}{number}", psnr=[gain] * number) for name, gain in (("a", 1.0), ("b", 2.0))
        )
        assert compare(runs(*folders))[0].scores[1].verdict == verdict


def test_where_runs_differ_most_is_where_they_do(make_run: MakeRun, tmp_path: Path) -> None:
    gains = [0.5, -0.07, 0.001, -0.3, 0.2, -0.45, 0.1, -0.2, 0.05]
    both = runs(make_run("a", psnr=[20.0] * 9), make_run("b", psnr=[20.0 + gain for gain in gains]))
    gained, lost = ([int(key[1][1:3]) for key in keys] for keys in _most_different(both))
    assert (gained, lost) == ([0, 4, 6], [5, 3, 7])
    assert _most_different([both[0], both[0]]) == ([], [])
    write_comparison([both[0], both[0]], tmp_path / "same")
    assert "Where they differ most" not in (tmp_path / "same" / "index.html").read_text()
    write_comparison(both, tmp_path / "both")
    text = " ".join(Page((tmp_path / "both" / "index.html").read_text()).text.split())
    assert (
        "B is better than A in 0 and worse in 0 of 1 number; in the others no difference is certain." in text
    )
    assert "Definitions PSNR" in text


def test_what_could_be_chance_is_unclear(make_run: MakeRun) -> None:
    folders = make_run("a", psnr=[20.0, 20.0, 20.0, 20.0]), make_run("b", psnr=[25.0, 16.0, 24.0, 16.5])
    assert compare(runs(*folders))[0].scores[1].verdict == "unclear"


def test_the_run_folder_of_a_chain_is_taken_for_its_report(make_run: MakeRun, tmp_path: Path) -> None:
    report = make_run("report", psnr=[1.0, 2.0])
    assert [run.folder for run in runs(report.parent, report)] == [report, report]
    with pytest.raises(UserError, match=r"no table of evaluated clips .no such file"):
        read_run(tmp_path / "nowhere")


def test_fid_has_a_difference_but_no_interval(make_run: MakeRun) -> None:
    folders = (
        make_run(name, psnr=[1.0, 2.0], numbers={"fid": fid}) for name, fid in (("a", 30.0), ("b", 20.0))
    )
    line = compare(runs(*folders))[-1]
    assert line.metric.key == "fid"
    assert line.scores[1].difference == -10
    assert not line.scores[1].difference_interval.known


def test_runs_that_cannot_be_compared_cause_warnings(make_run: MakeRun) -> None:
    first, second = make_run("a", psnr=[1.0, 2.0]), make_run("b", psnr=[1.0])
    path = second / "manifest.json"
    path.write_text(path.read_text().replace("same", "other"))
    warnings = warnings_of(runs(first, second))
    assert "1 clip of run A left out: not in all runs." in warnings
    assert "The runs used different data sets." in warnings


def test_the_page_links_to_what_lies_beside_it_and_escapes(make_run: MakeRun, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folders = [make_run("a", psnr=[1.0, 2.0, 3.0]), make_run("b", title=evil, psnr=[2.0, 1.0, 5.0])]
    write_comparison(runs(*folders), tmp_path / "side by side")
    page = Page((tmp_path / "side by side" / "index.html").read_text())
    assert page.tags.count("script") == 1
    assert evil in page.text
    videos = [link for link in page.links if link.endswith(".mp4")]
    assert videos[0].startswith("../a/clips/reconstruction/")
    assert not any(link.startswith("http") for link in page.links)
    numbers = json.loads((tmp_path / "side by side" / "compare.json").read_text())
    assert numbers["metrics"]["reconstruction"]["psnr"]["runs"][1]["difference"] == pytest.approx(2 / 3)
    json.dumps(numbers, allow_nan=False)


def test_runs_that_share_no_clip_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    first, second = runs(make_run("a", psnr=[1.0]), make_run("b", psnr=[1.0]))
    other = Run(
        second.folder, "other", {("reconstruction", "x", "x"): next(iter(second.clips.values()))}, {}, {}
    )
    with pytest.raises(UserError, match="share no clip"):
        write_comparison([first, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_differs_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [make_run("a", psnr=[1.0], numbers={"model_step": 10}), make_run("b", title="T", psnr=[2.0])]
    path = folders[1] / "manifest.json"
    settings = json.loads(path.read_text())["settings"]
    settings |= {"animation": {"seed": 3}, "model": "runs/b", "out": "elsewhere"}
    path.write_text(json.dumps({"settings": settings}))
    rows = {row.key: row.values for row in differences_of(runs(*folders))}
    assert rows == {
        "animation.seed": ("–", "3"),
        "model": ("–", "runs/b"),
        "model, step": ("10", "null"),
    }
    write_comparison(runs(*folders), tmp_path / "out")
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert "animation.seed" in page.text
    same = runs(folders[0], folders[0])
    assert differences_of(same) == ()


def test_a_difference_that_rounds_to_nothing_has_no_verdict(make_run: MakeRun, tmp_path: Path) -> None:
    values = [20.0, 21.0, 22.0, 23.0, 24.0]
    folders = [make_run("a", psnr=values), make_run("b", psnr=[value + 0.001 for value in values])]
    write_comparison(runs(*folders), tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    assert 'class="better"' not in text
    assert '<td class="unclear">0.00<br>' in text


def test_videos_have_a_frame_to_show_and_a_size(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [make_run("a", psnr=[1.0]), make_run("b", psnr=[2.0])]
    for folder in folders:
        clip = folder / next(iter(read_run(folder).clips.values())).folder
        clip.mkdir(parents=True)
        Image.new("RGB", (582, 221)).save(clip / "poster.jpg")
    write_comparison(runs(*folders), tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    assert text.count("poster.jpg") == 2
    assert text.count('width="582" height="221"') == 2


def test_a_folder_that_is_no_evaluation(tmp_path: Path, make_run: MakeRun) -> None:
    with pytest.raises(UserError, match="no table of evaluated clips"):
        read_run(tmp_path)
    folder = make_run("a", psnr=[1.0])
    (folder / "metrics.json").unlink()
    with pytest.raises(UserError, match="no finished evaluation"):
        read_run(folder)
