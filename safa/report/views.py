"""Views: what the templates of the pages take, as texts that are ready to be shown.

Templates take these dataclasses and plain strings, never numbers that they would have to format.
"""

from __future__ import annotations

from dataclasses import dataclass

from safa.report.charts import Chart


@dataclass(frozen=True)
class Cell:
    """A number in a table that can be sorted.

    Attributes:
        text: as it is shown.
        value: as it is sorted.
    """

    text: str
    value: float


@dataclass(frozen=True)
class ShareRow:
    """A row of a table with a bar.

    Attributes:
        label: what the row is about.
        text: its number as it is shown.
        percent: length of the bar, 0 to 100 for the longest.
    """

    label: str
    text: str
    percent: float


@dataclass(frozen=True)
class ScoreView:
    """One score of the model beside that of copying the source."""

    label: str
    model: str
    copy_source: str


@dataclass(frozen=True)
class GainBar:
    """Where the PSNR of copying the source and of the model lie on a common scale, 0 to 100."""

    copy_source: float
    model: float


@dataclass(frozen=True)
class VideoView:
    """A video, with all that a page needs to keep its place before it is loaded.

    Attributes:
        uri: relative to the page.
        poster: URI of a frame of it; empty if there is none.
        width: px; 0 if it is not known.
        height: px; 0 if it is not known.
    """

    uri: str
    poster: str
    width: int
    height: int


@dataclass(frozen=True)
class StripView:
    """A strip of moments of a clip.

    Attributes:
        image: data URI of a strip that is small enough for the page, or the URI of the file.
        file: URI of the file, relative to the page.
        width: px of the file.
        height: px of the file.
    """

    image: str
    file: str
    width: int
    height: int


@dataclass(frozen=True)
class ClipRow:
    """A clip as a row of a table.

    Attributes:
        name: short, for people.
        ids: of its clips, in full.
        video: URI, relative to the page; empty where there is none.
        cells: for every metric the model's score and that of copying the source.
        bar: None where there is no target to compare with.
    """

    name: str
    ids: str
    video: str
    n_frames: int
    cells: tuple[Cell, ...]
    bar: GainBar | None


@dataclass(frozen=True)
class ClipView:
    """A clip with its video and strip.

    Attributes:
        title: short, for people.
        ids: of its clips, in full.
    """

    title: str
    ids: str
    scores: tuple[ScoreView, ...]
    video: VideoView
    strip: StripView


@dataclass(frozen=True)
class OpeningView:
    """The moving result that a page opens with."""

    caption: str
    ids: str
    video: VideoView


@dataclass(frozen=True)
class Card:
    """A metric over all clips.

    Attributes:
        interval: of the value; empty if there is none.
        direction: which numbers are better, in words.
        clips: of how many clips it is, where not all have a number.
        gain: how much better or worse the model is than copying the source, in words.
        verdict: ``better``, ``worse``, ``same``; ``unclear`` where the interval of the difference contains 0,
            or of few clips; ``none`` where there is nothing to compare with.
    """

    label: str
    direction: str
    clips: str
    value: str
    interval: str
    copy_source: str
    gain: str
    verdict: str


@dataclass(frozen=True)
class ModeSection:
    """A section about a mode without a target.

    Attributes:
        headings: of the score columns, two per metric.
        clips: some clips with video and strip.
        rows: all clips, up to a limit.
        num_clips: how many clips there are.
    """

    name: str
    heading: str
    note: str
    cards: tuple[Card, ...]
    headings: tuple[str, ...]
    clips: tuple[ClipView, ...]
    rows: tuple[ClipRow, ...]
    num_clips: int


@dataclass(frozen=True)
class TrainingSection:
    """The settings and curves of one training run."""

    name: str
    settings: tuple[str, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Definition:
    """A term and what is said about it: the definition of a metric, or the reason why it is missing."""

    label: str
    text: str


@dataclass(frozen=True)
class FailureRow:
    """A clip that could not be evaluated."""

    name: str
    mode: str
    code: str
    detail: str


@dataclass(frozen=True)
class RunView:
    """One of the evaluations that are compared.

    Attributes:
        letter: its short name on the page.
        page: URI of its report, relative to the page.
    """

    letter: str
    title: str
    folder: str
    page: str
    n_clips: int
    n_quarantined: int


@dataclass(frozen=True)
class RunScoreView:
    """One run's number of a metric, and its difference to the first run's."""

    value: str
    interval: str
    difference: str
    difference_interval: str
    verdict: str


@dataclass(frozen=True)
class ComparisonRow:
    """A metric over the clips that all runs share.

    Attributes:
        direction: which numbers are better, in words.
    """

    label: str
    direction: str
    n_clips: int
    scores: tuple[RunScoreView, ...]


@dataclass(frozen=True)
class ComparisonSection:
    """All metrics of one mode."""

    heading: str
    rows: tuple[ComparisonRow, ...]


@dataclass(frozen=True)
class RunClip:
    """One run's result for a clip.

    Attributes:
        psnr: in dB.
        difference: to the first run's PSNR.
    """

    psnr: Cell
    difference: Cell
    video: VideoView


@dataclass(frozen=True)
class PairedClip:
    """A clip that all runs share, with the result of each run; ``ids`` are in full."""

    title: str
    ids: str
    runs: tuple[RunClip, ...]


@dataclass(frozen=True)
class SampleView:
    """A frame of a data set.

    Attributes:
        name: short, for people.
        ids: of the clip, in full.
        image: data URI.
        width: px.
        height: px.
    """

    name: str
    ids: str
    image: str
    width: int
    height: int


@dataclass(frozen=True)
class Badge:
    """A count in a page's head; ``kind`` is ``ok``, ``bad`` or empty."""

    text: str
    kind: str


@dataclass(frozen=True)
class SplitRow:
    """A split of a data set: how many clips are listed and stored, and why the others are not."""

    split: str
    listed: str
    ok: str
    people: str
    share: str
    refused: str


@dataclass(frozen=True)
class DifferenceView:
    """A setting that is not the same in all runs, with its value in each."""

    key: str
    values: tuple[str, ...]
