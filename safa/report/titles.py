"""Short titles of clips: the people, and no more of the ids than is needed to tell clips apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from safa.data.schema import ClipId

ARROW = " ← "
Pair = tuple[str, str]  # ids of source and driving clip


def short_titles(pairs: Iterable[Pair]) -> Mapping[Pair, str]:
    """Return a title for every pair: ``synth00090 ← synth00089``, or one name for a clip alone.

    Where two pairs would look alike, their videos are named, too, and then the frames.
    """
    distinct = tuple(dict.fromkeys(pairs))
    titles: dict[Pair, str] = {}
    for depth in (1, 2, 3):
        open_pairs = [pair for pair in distinct if pair not in titles]
        short = {pair: _title(pair, depth) for pair in open_pairs}
        alike = Counter(short.values())
        titles |= {pair: title for pair, title in short.items() if alike[title] == 1 or depth == 3}
    return titles


def full_ids(pair: Pair) -> str:
    """Return the ids of a pair in full, once where both are the same."""
    return ARROW.join(dict.fromkeys(pair))


def _title(pair: Pair, depth: int) -> str:
    return ARROW.join(_short(clip, depth) for clip in dict.fromkeys(pair))


def _short(clip: str, depth: int) -> str:
    """Name a clip by its person, person and video, or these and its frames."""
    try:
        parsed = ClipId.parse(clip)
    except ValueError:  # the id of a clip that failed may be anything
        return clip
    name = parsed.person_id
    if depth > 1:
        name += f" {parsed.video_id.removeprefix(parsed.person_id).strip('_- ')}".rstrip()
    return name if depth < 3 else f"{name} {parsed.start} to {parsed.end}"
