from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from safa.config.losses import HeadLossWeights, LossWeights
from safa.metrics import L1, LANDMARK_NME, METRICS, PSNR
from safa.metrics.expression import MOVEMENTS
from safa.report import clip_views, loss_terms
from safa.report.content import ReportContent
from safa.report.page import FEATURED, MOST_ROWS, render_page, write_page
from safa.report.rendering import format_score
from safa.report.views import VideoView

Make = Callable[..., ReportContent]
LayOut = Callable[[ReportContent], Path]
VOID = {"meta", "link", "img", "input", "line", "circle", "polyline", "rect"}


class Page(HTMLParser):
    """Collects links and text; refuses a page whose tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.hovers: list[str] = []
        self.sized: list[tuple[str, bool]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " "
        self.hovers += [value or "" for name, value in attrs if name == "title"]
        if tag in ("video", "img"):
            names = {name for name, value in attrs if value}
            self.sized.append((tag, {"width", "height"} <= names))
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "poster")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["style"], ["script"]):
            self.text += data


def render(content: ReportContent, lay_out: LayOut) -> Page:
    return Page(render_page(content, lay_out(content)))


def test_nothing_comes_from_a_network_and_every_file_is_there(content: Make, lay_out: LayOut) -> None:
    report = content(1.0, 2.0)
    folder = lay_out(report)
    text = render_page(report, folder)
    page = Page(text)
    assert not re.search(r"https?:", text)
    files = [link for link in page.links if not link.startswith(("data:", "#"))]
    assert any(file.endswith(".mp4") for file in files)
    for file in set(files) - {"metrics.json", "clips.parquet"}:
        assert (folder / unquote(file)).is_file()


def test_only_our_own_script_may_run(content: Make, lay_out: LayOut) -> None:
    report = content(1.0)
    text = render_page(report, lay_out(report))
    (allowed,) = re.findall(r"script-src 'sha256-([^']+)'", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == allowed
    assert "default-src 'none'" in text


def test_text_from_data_is_escaped(content: Make, lay_out: LayOut) -> None:
    page = render(content(1.0), lay_out)
    assert page.tags.count("script") == 1  # our own
    assert page.text.count('<script>alert("x")</script>') == 4  # title twice, failure, settings


def test_headline_names_the_baseline_and_the_difference(content: Make, lay_out: LayOut) -> None:
    text = " ".join(render(content(2.0, 4.0), lay_out).text.split())
    assert "metric model copy the source difference" in text
    assert "PSNR higher is better 23.00 dB 22.00 to 24.00 20.00 dB better by 3.00 dB" in text
    nme = "Landmark NME lower is better; of the 3D head, not of the picture 5.00 % 5.00 to 5.00 20.00 %"
    assert f"{nme} better by 15.00 points" in text
    assert "beats copying the source, a still picture, by 3.00 dB" in text


def test_a_model_that_is_worse_is_said_to_be_worse(content: Make, lay_out: LayOut) -> None:
    text = " ".join(render(content(-1.5), lay_out).text.split())
    assert "worse by 1.50 dB" in text
    assert "falls behind copying the source, a still picture, by 1.50 dB" in text


def test_a_difference_that_could_be_chance_is_not_certain(content: Make, lay_out: LayOut) -> None:
    report = content(-1.0, 2.0, -1.5, 1.0, 0.1)
    text = render_page(report, lay_out(report))
    assert '<span class="unclear">better by 0.12 dB, not certain</span>' in text


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([0.5, 0.6, 0.4, 0.55, 0.45], '<span class="better">above 0</span>'),
        ([-0.5, -0.6, -0.4, -0.55, -0.45], '<span class="worse">below 0</span>'),
        ([0.5, -0.6, 0.4, -0.5, 0.45], '<span class="unclear">above 0, not certain</span>'),
        ([0.5, 0.6, 0.4, 0.55, math.nan], '<span class="unclear">above 0, not certain</span>'),  # four clips
    ],
)
def test_movements_are_compared_with_chance(
    content: Make, lay_out: LayOut, scores: list[float], said: str
) -> None:
    """A face that stands still has no correlation, and a gain of 0 that nobody has to beat."""
    report = content(1.0, 2.0, 3.0, 4.0, 5.0)
    moved = [
        dataclasses.replace(
            result,
            scores=result.scores
            | {
                "mouth_opening_correlation": score,
                "mouth_opening_gain": 1.2,
                "mouth_opening_gain_copy_source": 0,
            },
        )
        for result, score in zip(report.results, scores, strict=False)
    ]
    report = dataclasses.replace(report, results=(*moved, *report.results[5:]))
    text = render_page(report, lay_out(report))
    assert said in text
    row = text[text.index(">Mouth opening, gain</a>") :]
    assert row[: row.index("</tr>")].endswith("<td>–</td>")
    assert ("4 of 5 clips" in text) == math.isnan(scores[-1])
    mean = f"{np.nanmean(scores):.2f}"
    assert f"Mouths open with the drivers&#39; at a correlation of {mean}" in text


def test_nobody_has_to_beat_the_source_at_being_the_source(content: Make, lay_out: LayOut) -> None:
    report = content(1.0)
    results = [
        dataclasses.replace(result, scores=result.scores | {"csim": 0.9, "csim_copy_source": 1.0})
        for result in report.results
    ]
    text = render_page(dataclasses.replace(report, results=tuple(results)), lay_out(report))
    section = text[text.index('<section id="animation">') :]
    row = section[section.index(">CSIM</a>") :]
    assert row[: row.index("</tr>")].endswith("<td>–</td>")


def test_few_clips_are_shown_once_and_of_many_both_ends(content: Make, lay_out: LayOut) -> None:
    gains = [float(gain) for gain in range(2 * FEATURED + 3)]
    text = render(content(*gains), lay_out).text
    worst, best = text.index("Worst clips"), text.index("Best clips")
    shown_names = [text.index(f"p{number:02d}", worst) for number in range(FEATURED)]
    assert all(worst < position < best for position in shown_names)
    after = text[best : text.index("All clips", best)]
    assert [f"p{len(gains) - 1 - i:02d}" in after for i in range(FEATURED)] == [True] * FEATURED
    assert f"p{FEATURED:02d}" not in after


def test_every_clip_is_in_the_table(content: Make, lay_out: LayOut) -> None:
    page = render(content(*map(float, range(9))), lay_out)
    table = page.text[page.text.index("Filter") :]
    assert all(f"p{number:02d}" in table for number in range(9))
    assert "p00 ← q00" in table
    assert {"p03#v#000000#000096", "p00#v#000000#000096 ← q00#v#000000#000096"} <= set(page.hovers)
    assert "#v#" not in page.text.replace("bad#v#000000#000009", "")  # of the failure, which has no title


def test_failures_are_listed_with_their_reason(content: Make, lay_out: LayOut) -> None:
    text = " ".join(render(content(1.0), lay_out).text.split())
    assert "3 results 2 ok 1 failed" in text
    assert "bad#v#000000#000009 reconstruction decode frame 3:" in text


def test_the_page_stands_without_anything_to_show(content: Make, lay_out: LayOut) -> None:
    empty = dataclasses.replace(content(), results=(), failures=(), runs=())
    page = render(empty, lay_out)
    assert "No clip was evaluated" in page.text
    assert "every clip was evaluated" in page.text
    assert "video" not in page.tags


def test_a_clip_without_a_face_shows_a_dash(content: Make, lay_out: LayOut) -> None:
    report = content(1.0, 2.0)
    faceless = dataclasses.replace(
        report.results[0], scores=report.results[0].scores | dict.fromkeys(["landmark_nme"], math.nan)
    )
    page = render(dataclasses.replace(report, results=(faceless, report.results[1])), lay_out)
    assert "–" in page.text[page.text.index("Filter") :]


def test_curves_and_definitions_are_there(content: Make, lay_out: LayOut) -> None:
    report = content(1.0)
    page = render(report, lay_out)
    assert page.tags.count("polyline") == 4  # two losses, a score and its baseline
    for metric in METRICS:
        named = metric.key in report.results[0].scores or metric.key in report.skipped
        assert (metric.definition in page.text) == named, metric.key


def test_metrics_that_are_defined_alike_share_a_definition(content: Make, lay_out: LayOut) -> None:
    report = content(1.0)
    movements = {f"{name}_correlation": 0.5 for name in MOVEMENTS}
    first = dataclasses.replace(report.results[0], scores={**report.results[0].scores, **movements})
    page = render(dataclasses.replace(report, results=(first, *report.results[1:])), lay_out)
    labels = "Mouth opening, correlation; Mouth width, correlation; Eye opening, correlation"
    assert "worse by" not in page.text  # copying the source has no number to compare with
    assert page.text.count(labels) == 1
    assert page.text.count("Pearson's, over the frames") == 1


def test_the_page_is_written_atomically(content: Make, lay_out: LayOut) -> None:
    report = content(1.0)
    folder = lay_out(report)
    write_page(report, folder / "index.html")
    assert (folder / "index.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert sorted(path.name for path in folder.iterdir()) == ["clips", "index.html"]


def test_what_was_skipped_says_why(content: Make, lay_out: LayOut) -> None:
    report = dataclasses.replace(
        content(1.0), skipped={"fid": "skipped: weights missing (scorers.inception)"}
    )
    text = " ".join(render(report, lay_out).text.split())
    assert "Not measured FID – skipped: weights missing (scorers.inception)" in text


def test_every_mode_has_its_section(content: Make, lay_out: LayOut) -> None:
    report = content(1.0)
    animated = report.results[-1]
    others = [
        dataclasses.replace(animated, job=dataclasses.replace(animated.job, mode=mode))
        for mode in ("swap", "mesh")
    ]
    page = render(dataclasses.replace(report, results=(*report.results, *others)), lay_out)
    for heading in ("Animation", "Face swap", "3D reconstruction"):
        assert page.text.count(heading) == 3  # navigation, section, table
    assert page.tags.count("video") == 5  # one opens the page


def test_thousands_of_clips_fit_under_20_mb(
    content: Make, lay_out: LayOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = content(*(float(number % 17) for number in range(3000)))
    monkeypatch.setattr(clip_views, "jpeg_data_uri", lambda _: "data:image/jpeg;base64," + "A" * 3 * 2**20)
    monkeypatch.setattr(clip_views, "_open", lambda _: Image.new("RGB", (2000, 300)))
    monkeypatch.setattr(clip_views, "video_view", lambda _, uri: VideoView(uri, "", 582, 221))
    text = render_page(report, Path("nowhere"))
    assert len(text.encode()) < 20e6
    assert text.count("data:image/jpeg") == 3  # a fourth would be over 12 MB; the others are links
    assert text.count('class="bar"><svg') == MOST_ROWS
    assert f"These are the worst {MOST_ROWS} of\n  3000 clips" in text


def test_clips_without_a_video_have_no_link_and_are_not_featured(content: Make, lay_out: LayOut) -> None:
    report = content(*(float(number) for number in range(9)))
    hidden = [dataclasses.replace(result, shown=False) for result in report.results[:8]]
    page = render(dataclasses.replace(report, results=(*hidden, *report.results[8:])), lay_out)
    assert page.tags.count("video") == 3  # the opening, one reconstruction, one animation
    links = [link for link in page.links if link.startswith("clips/reconstruction")]
    assert {link.split("/")[2] for link in links} == {"p08~v~000000~000096"}
    assert "p00" in page.text


def test_the_table_has_the_scores_of_every_clip(content: Make, lay_out: LayOut) -> None:
    text = " ".join(render(content(0.5, -0.25), lay_out).text.split())
    table = text[text.index("Filter") :]
    assert "clip frames PSNR: copy model PSNR dB SSIM" in table
    # The smallest gain first; model, then baseline.
    assert "p01 96 19.75 20.00 0.500 0.500" in table
    assert table.index("19.75") < table.index("p00 96 20.50 20.00 0.500 0.500")


def test_the_run_says_how_it_was_made(content: Make, lay_out: LayOut) -> None:
    text = " ".join(render(content(1.0), lay_out).text.split())
    assert "Perceptual loss: pixel_pyramid stand-in, no VGG19 weights." in text
    assert "pretrain – 3DMM alone: 50 steps, batch 8." in text
    assert "train 1 min 15 s evaluate 12.3 s" in text
    assert "192 frames in 6.0 s of work: 32.0 frames/s" in text
    assert "torch 2.13.0" in text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (PSNR, 21.456, "21.46 dB"),
        (L1, 0.02345, "0.0234"),
        (LANDMARK_NME, 0.0512, "5.12 %"),
        (PSNR, math.nan, "–"),
    ],
)
def test_scores_have_their_unit(metric: object, value: float, text: str) -> None:
    assert format_score(metric, value) == text  # type: ignore[arg-type]


def test_the_page_opens_with_a_moving_result_and_the_headline(content: Make, lay_out: LayOut) -> None:
    report = content(1.0, 2.0, 3.0)
    folder = lay_out(report)
    text = render_page(report, folder)
    body = text[text.index("<main>") :]
    assert body.index("<video") < body.index('class="headline"') < body.index("<h2")
    assert "An animation, the first of all: p00 ← q00." in body
    assert body.count(" autoplay></video>") == 1
    alone = dataclasses.replace(report, results=report.results[:3])
    assert "A reconstruction, the one in the middle by its gain: p01." in render_page(alone, folder)


def test_pictures_and_videos_keep_their_place(content: Make, lay_out: LayOut) -> None:
    """Else a link to a heading lands thousands of px away from it, once they are loaded."""
    page = render(content(1.0, 2.0), lay_out)
    assert len(page.sized) == 7
    assert all(sized for _, sized in page.sized)
    assert sum(link.endswith("poster.jpg") for link in page.links) == 4


def test_differences_that_round_to_nothing_are_the_same(content: Make, lay_out: LayOut) -> None:
    text = " ".join(render(content(0.001), lay_out).text.split())
    assert "PSNR higher is better 20.00 dB 20.00 dB the same" in text


def test_loss_terms_are_in_words_and_a_rise_is_explained(content: Make, lay_out: LayOut) -> None:
    report = content(1.0)
    rows = [
        {"kind": "train", "step": n, "losses": {"generator_gan": n, "landmark": 9 - n}} for n in range(1, 8)
    ]
    run = dataclasses.replace(report.runs[0], records=rows)
    page = render(dataclasses.replace(report, runs=(run,)), lay_out)
    assert "Generator: predictions not taken for real" in page.text
    assert "the two play against each other" in page.text
    assert page.text.count("It rises") == 1
    assert "generator_gan" in page.hovers
    names = {*LossWeights.model_fields, *HeadLossWeights.model_fields}
    assert names <= set(loss_terms.PLAIN)
