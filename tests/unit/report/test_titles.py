"""Short titles: people alone where that tells clips apart, videos and frames where it does not."""

from __future__ import annotations

from safa.report.titles import full_ids, short_titles


def test_people_are_enough_where_they_differ() -> None:
    pairs = [("ann#v1#000000#000010", "ben#v1#000000#000010"), ("ben#v1#000000#000010",) * 2]
    assert list(short_titles(pairs).values()) == ["ann ← ben", "ben"]


def test_videos_and_then_frames_are_named_where_people_are_alike() -> None:
    clips = [
        "ann#v1#000000#000010",
        "ann#ann_v2#000000#000010",
        "ann#ann_v2#000010#000020",
        "ben#v#000000#000010",
    ]
    titles = short_titles((clip, clip) for clip in clips)
    assert list(titles.values()) == ["ben", "ann v1", "ann v2 0 to 10", "ann v2 10 to 20"]


def test_two_clips_of_one_person_keep_their_arrow() -> None:
    pair = ("ann#v1#000000#000010", "ann#v2#000000#000010")
    assert short_titles([pair])[pair] == "ann ← ann"
    assert full_ids(pair) == "ann#v1#000000#000010 ← ann#v2#000000#000010"


def test_what_is_no_clip_id_is_its_own_title() -> None:
    assert short_titles([("odd", "odd")])[("odd", "odd")] == "odd"
