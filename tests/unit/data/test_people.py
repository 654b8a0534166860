"""Who is who in clips without names, and who is held out."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.config.preprocess import ClipsSource, FaceTrackConfig, VideosSource
from safa.data import people as module
from safa.data.detectors.loading import load_detector, load_embedder
from safa.data.face_tracks import (
    Segment,
    VideoTracks,
    find_face_tracks,
    list_tracked_clips,
    raw_videos,
    read_tracks,
    tracks_file,
    write_tracks,
)
from safa.data.people import (
    PEOPLE,
    Person,
    SeenClip,
    find_people,
    in_words,
    read_people,
    with_splits,
    write_people,
)
from safa.data.sources import Listing, list_jobs
from safa.data.video import read_frames, write_video
from safa.errors import UserError

REAL = Path(__file__).parents[4] / "shared" / "real"
RANDOM = np.random.default_rng(7)
# Two people are about 0.8 apart, as in dlib's embeddings, and two clips of one person 0.2 to 0.3.
FACES = RANDOM.normal(size=(6, 128)).astype(np.float32) * 0.05


def clip(video: str, start: int, person: int | None, seed: int = 0, number: int = 0) -> SeenClip:
    if person is None:
        return SeenClip(video, start, start + 100, number)
    noise = np.random.default_rng((seed, start, number)).normal(size=128).astype(np.float32) * 0.012
    return SeenClip(video, start, start + 100, number, FACES[person] + noise)


def names(people: list[Person]) -> dict[str, str]:
    return {key: person.name for person in people for key in person.clips}


def test_clips_of_one_person_have_one_name_and_others_another() -> None:
    clips = [clip("b", 0, 1), clip("a", 0, 0), clip("a", 200, 0), clip("b", 300, 0, seed=3), clip("c", 0, 1)]
    found = find_people(clips, [])
    assert [(person.name, person.embedded) for person in found] == [("a", 3), ("b", 2)]
    assert set(found[0].clips) == {"a#0#100#0", "a#200#300#0", "b#300#400#0"}
    assert find_people(reversed(clips), []) == found


def test_two_faces_in_the_same_frames_are_two_people_however_alike() -> None:
    twins = [clip("a", 0, 0), clip("a", 0, 0, number=1), clip("a", 50, 0), clip("a", 300, 0)]
    found = names(find_people(twins, []))
    assert len({found["a#0#100#0"], found["a#0#100#1"], found["a#50#150#0"]}) == 3
    known = [Person("x", "train", ("x#0#9#0",), FACES[0], 1)]
    assert sorted(names(find_people(twins[:2], known)).values()) == ["a", "x", "x"]


def test_new_videos_change_nothing_of_earlier_people() -> None:
    first = with_splits(find_people([clip("m", 0, 0), clip("n", 0, 1)], []), 0.5)
    more = [clip("a", 0, 1, seed=5), clip("m", 0, 0), clip("b", 0, 2), clip("n", 0, 1)]
    second = with_splits(find_people(more, first), 0.5)
    assert names(second) == {"m#0#100#0": "m", "n#0#100#0": "n", "a#0#100#0": "n", "b#0#100#0": "b"}
    assert [person.split for person in second[:2]] == [person.split for person in first]
    assert second[1].embedded == 2
    assert find_people(more, second) == second


def test_many_clips_are_compared_in_parts_with_the_same_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [clip(f"v{n:02}", start, n % 6, seed=n) for n in range(18) for start in (0, 200)]
    whole = find_people(clips, [])
    assert len(whole) == 6
    monkeypatch.setattr(module, "AT_ONCE", 5)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    assert {frozenset(person.clips) for person in find_people(clips, [])} == {
        frozenset(person.clips) for person in whole
    }


def test_without_embeddings_each_video_is_a_person() -> None:
    clips = [clip("a", 0, None), clip("a", 0, None, number=1), clip("a", 200, None), clip("b", 0, None)]
    expected = {"a#0#100#0": "a", "a#0#100#1": "a.2", "a#200#300#0": "a", "b#0#100#0": "b"}
    assert names(find_people(clips, [])) == expected


def test_names_stay_different_and_within_their_length() -> None:
    long = "x" * 128
    found = find_people([clip(long, 0, 0), clip(long, 0, 1, number=1)], [])
    assert [person.name for person in found] == [long, "x" * 116 + ".2"]
    found = find_people([clip("a.2", 0, 2), clip("a", 0, 0), clip("a", 0, 1, number=1)], [])
    assert [person.name for person in found] == ["a", "a.2", "a.2.2"]


@given(st.integers(1, 40), st.floats(0.01, 0.99))
def test_a_share_of_the_people_is_held_out(count: int, share: float) -> None:
    split = with_splits([Person(f"p{number}") for number in range(count)], share)
    held_out = sum(person.split == "test" for person in split)
    assert {person.split for person in split} <= {"train", "test"}
    if count == 1:
        assert held_out == 0
    else:
        assert 1 <= held_out < count
        assert abs(held_out - share * count) <= 1
    assert with_splits(split, share) == split


@given(st.integers(1, 10), st.integers(1, 10))
def test_splits_stay_when_people_come(before: int, more: int) -> None:
    first = with_splits([Person(f"p{number}") for number in range(before)], 0.3)
    second = with_splits([*first, *(Person(f"q{number}") for number in range(more))], 0.3)
    assert second[:before] == first
    assert sum(person.split == "test" for person in second) >= 1


def test_what_the_log_says() -> None:
    assert in_words([Person("ann", "train")]).startswith("one person (ann)")
    assert in_words(with_splits([Person(name) for name in "abcd"], 0.3)) == "4 people, 1 of them held out"


def test_people_are_kept_in_a_file(tmp_path: Path) -> None:
    assert read_people(tmp_path) == []
    people = with_splits(find_people([clip("a", 0, 0), clip("b", 0, 1), clip("c", 0, None)], []), 0.4)
    write_people(tmp_path, people)
    read = read_people(tmp_path)
    assert read == people
    for one, other in zip(read, people, strict=True):
        assert one.embedded == other.embedded
        np.testing.assert_array_equal(one.embedding, other.embedding)  # type: ignore[arg-type]
    write_people(tmp_path, [*people, replace(people[0], split="test")])
    with pytest.raises(UserError, match=r"people\.parquet: not a list of people"):
        read_people(tmp_path)
    (tmp_path / PEOPLE).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"people\.parquet"):
        read_people(tmp_path)


def _track(video: str, *people: int) -> VideoTracks:
    segments = tuple(
        Segment(200 * n, 200 * n + 100, 0.9, (0, 0, 50, 50), embedding=tuple(map(float, FACES[person])))
        for n, person in enumerate(people)
    )
    return VideoTracks(video, 25.0, 100, 80, segments)


def test_people_and_splits_are_in_the_clips_of_raw_videos(tmp_path: Path) -> None:
    videos, folder = tmp_path / "videos", tmp_path / "tracks"
    videos.mkdir()
    folder.mkdir()
    for name, people in (("a", (0, 1)), ("b", (1,)), ("c", (2, 2))):
        (videos / f"{name}.mp4").touch()
        write_tracks(folder, _track(f"{name}.mp4", *people))
    source = VideosSource(kind="videos", folder=videos)
    listing = list_tracked_clips(source, raw_videos(source)[0], folder)
    assert [job.clip_id for job in listing.jobs] == [
        *("a#a#000000#000100", "a.2#a#000200#000300", "a.2#b#000000#000100"),
        *("c#c#000000#000100", "c#c#000200#000300"),
    ]
    splits: dict[str, set[str]] = {}
    for job in listing.jobs:
        assert job.clip_id.startswith(job.person_id + "#")
        splits.setdefault(job.person_id, set()).add(job.split)
    assert all(len(each) == 1 for each in splits.values())
    assert sorted(each for split in splits.values() for each in split) == ["test", "train", "train"]
    by_video = source.model_copy(update={"identity": None, "split": "test"})
    listing = list_tracked_clips(by_video, raw_videos(by_video)[0], folder)
    assert {(job.person_id, job.split) for job in listing.jobs} == {(name, "test") for name in "abc"}


def test_tracks_keep_embeddings_and_refuse_what_is_none(tmp_path: Path) -> None:
    tracks = _track("a.mp4", 0)
    write_tracks(tmp_path, tracks)
    path = tracks_file(tmp_path, "a.mp4")
    assert read_tracks(path) == tracks
    path.write_text(path.read_text().replace(str(tracks.segments[0].embedding[0]), '"x"'))  # type: ignore[index]
    with pytest.raises(UserError, match="not a file of face tracks"):
        read_tracks(path)


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not here")
def test_one_person_in_two_real_videos_and_another(tmp_path: Path) -> None:
    """The third video comes later: the person of the first two keeps name and split."""
    pytest.importorskip("dlib", reason="dlib-bin is not installed")
    videos = tmp_path / "videos"
    videos.mkdir()
    shorter = FaceTrackConfig(min_frames=20, min_size=128)
    source = VideosSource(kind="videos", folder=videos, face_tracks=shorter, short_side=256)
    detector, embedder = load_detector(source.detector), load_embedder(source)

    def add(name: str, real: str, first: int) -> Listing:
        frames = islice(read_frames(REAL / "raw" / f"{real}.mp4", size=(384, 384)), first, first + 24)
        write_video(videos / f"{name}.mp4", frames, 25.0)
        tracks = find_face_tracks(videos / f"{name}.mp4", source, 25.0, detector, embedder)
        write_tracks(tmp_path, tracks)
        listing = list_tracked_clips(source, raw_videos(source)[0], tmp_path, read_people(tmp_path))
        write_people(tmp_path, listing.people)
        return listing

    add("m", "lp_d18", 0)
    assert [(job.person_id, job.split) for job in add("n", "lp_d18", 60).jobs] == [("m", "train")] * 2
    later = {job.video_id: (job.person_id, job.split) for job in add("a", "lp_d10", 0).jobs}
    assert later == {"m": ("m", "train"), "n": ("m", "train"), "a": ("a", "test")}


def test_a_folder_of_clips_is_split_by_person(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"p{number % 4}#v{number}#000000#000040.mp4").touch()
    source = ClipsSource(kind="clips", folder=tmp_path, split="auto", held_out=0.25)
    listing = list_jobs(source)
    held_out = {job.person_id for job in listing.jobs if job.split == "test"}
    assert len(held_out) == 1
    assert not held_out & {job.person_id for job in listing.jobs if job.split == "train"}
    (tmp_path / "other#v#000000#000040.mp4").touch()
    more = list_jobs(source, listing.people).people
    assert more[:4] == listing.people
    assert sum(person.split == "test" for person in more) == 1
    assert sum(person.split == "test" for person in list_jobs(source).people) == 1
