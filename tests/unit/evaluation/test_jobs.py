from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safa.config.inference import AnimationConfig, EvaluateConfig
from safa.data.clip_store import ClipInfo
from safa.errors import UserError
from safa.evaluation.jobs import EvaluationJob, draw_pairs, list_jobs, read_pairs


def clip(person: str, video: str = "v", start: int = 0) -> ClipInfo:
    name = f"{person}#{video}#{start:06d}#{start + 9:06d}"
    return ClipInfo(0, name, person, video, "test", start, start + 9, 9, 25.0, 32, 32, (0, 0, 9, 9), "test")


def people(*sizes: int) -> list[ClipInfo]:
    return [clip(f"p{number}", start=10 * n) for number, size in enumerate(sizes) for n in range(size)]


def config(**changes: object) -> EvaluateConfig:
    paths = {"model": Path("m"), "clips": Path("c"), "out": Path("o")}
    return EvaluateConfig.model_validate({**paths, **changes})


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 40), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_pairs_are_distinct_and_of_different_people(sizes: list[int], number: int, seed: int) -> None:
    clips = people(*sizes)
    person = {clip.clip_id: clip.person_id for clip in clips}
    pairs = draw_pairs(clips, AnimationConfig(pairs=number, seed=seed))
    possible = sum(a.person_id != b.person_id for a in clips for b in clips)
    assert len(set(pairs)) == len(pairs) <= number
    assert len(pairs) >= min(number, len(clips), possible)
    assert all(person[source] != person[driving] for source, driving in pairs)


def test_every_clip_drives_once_before_one_drives_again() -> None:
    clips = people(2, 2, 2)
    drivers = [driving for _, driving in draw_pairs(clips, AnimationConfig(pairs=12))]
    assert len(set(drivers[:6])) == len(set(drivers[6:])) == 6


def test_twenty_thousand_pairs_of_as_many_clips_take_a_moment(tmp_path: Path) -> None:
    clips = people(*[20] * 1000)
    start = time.process_time()
    pairs = draw_pairs(clips, AnimationConfig(pairs=20_000))
    assert len(pairs) == len(set(pairs)) == 20_000
    (tmp_path / "pairs.csv").write_text("source,driving\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    assert read_pairs(tmp_path / "pairs.csv", {clip.clip_id for clip in clips}) == pairs
    assert time.process_time() - start < 2  # it was quadratic, in memory too


def test_a_driver_gets_every_source_of_the_others_once() -> None:
    clips = people(3, 4, 5)
    pairs = draw_pairs(clips, AnimationConfig(pairs=1000))
    assert len(set(pairs)) == len(pairs) == 3 * 9 + 4 * 8 + 5 * 7


def test_a_list_of_pairs_is_read_from_a_store(tmp_path: Path) -> None:
    clips = people(2, 1)
    a, _, c = (clip.clip_id for clip in clips)
    (tmp_path / "pairs.csv").write_text(f"source,driving\n{a},{c}\n")
    animation = AnimationConfig.model_validate({"csv": f"file://{tmp_path}/pairs.csv"})
    jobs = list_jobs(clips, config(modes=("animation",), animation=animation))
    assert [(job.source, job.driving) for job in jobs] == [(a, c)]


def test_pairs_depend_on_the_seed_but_not_on_the_order_of_clips() -> None:
    clips = people(3, 3, 3)
    draws = [draw_pairs(clips, AnimationConfig(pairs=5, seed=seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draw_pairs(clips[::-1], AnimationConfig(pairs=5)) == draws[0]


def test_jobs_of_both_modes() -> None:
    clips = people(2, 1)
    jobs = list_jobs(clips, config(animation=AnimationConfig(pairs=2)))
    assert [job.mode for job in jobs] == ["reconstruction"] * 3 + ["animation"] * 2
    assert all((job.source == job.driving) == (job.mode == "reconstruction") for job in jobs)
    assert [job.mode for job in list_jobs(clips, config(modes=("animation",)))] == ["animation"] * 4


def test_one_person_cannot_be_animated_by_another() -> None:
    with pytest.raises(UserError, match="clips of two people"):
        list_jobs(people(4), config())
    assert len(list_jobs(people(4), config(modes=("reconstruction",)))) == 4


def test_meshes_are_of_every_clip_and_swaps_of_the_pairs() -> None:
    clips = people(2, 1)
    modes = ("mesh", "swap", "animation")
    jobs = list_jobs(clips, config(modes=modes, animation=AnimationConfig(pairs=2)))
    assert [job.mode for job in jobs] == ["mesh"] * 3 + ["swap"] * 2 + ["animation"] * 2
    of_mode = {mode: [(job.source, job.driving) for job in jobs if job.mode == mode] for mode in modes}
    assert of_mode["swap"] == of_mode["animation"]
    assert all(source == driving for source, driving in of_mode["mesh"])


def listed(tmp_path: Path, text: str) -> EvaluateConfig:
    (tmp_path / "pairs.csv").write_text(text)
    animation = AnimationConfig(csv=tmp_path / "pairs.csv", pairs=1)
    return config(modes=("animation",), animation=animation)


def test_pairs_from_a_list_in_its_order(tmp_path: Path) -> None:
    clips = people(2, 1)
    a, b, c = (clip.clip_id for clip in clips)
    # A column more, a pair of one person, another order: as the list says; also as a spreadsheet writes it.
    text = f"driving,note,source\n{c},x,{a}\n{a},y,{b}\n"
    for written in (text, "\ufeff" + text.replace(",", "; ").replace("\n", "\r\n")):
        jobs = list_jobs(clips, listed(tmp_path, written))
        assert [(job.source, job.driving) for job in jobs] == [(a, c), (b, a)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("source\np0#v#000000#000009\n", "lacks the columns driving"),
        ('source,driving\n"p0#v#000000#000009,a\n' + "a,b\n" * 3, "line 2: a quote is not closed"),
        ("source,driving\n", "no pairs in the columns"),
        ("source,driving\np0#v#000000#000009,../../x\n", r"line 2: no clip '\.\./\.\./x'"),
        ("source,driving\np0#v#000000#000009\n", "line 2: 1 fields where line 1 has 2"),
        (
            "source,driving\n" + "p0#v#000000#000009,p1#v#000000#000009\n" * 2,
            "line 3: this pair is listed twice",
        ),
    ],
)
def test_a_bad_list_of_pairs_names_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        list_jobs(people(1, 1), listed(tmp_path, text))


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    animation = AnimationConfig(csv=tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        list_jobs(people(1, 1), config(animation=animation))


def test_a_job_survives_the_way_through_a_column() -> None:
    job = EvaluationJob("animation", clip("ann").clip_id, clip("ben").clip_id)
    assert EvaluationJob.from_json(job.to_json()) == job


def test_folder_names_are_safe_and_distinct() -> None:
    ann, ben = clip("ann").clip_id, clip("ben").clip_id
    alone = EvaluationJob("reconstruction", ann, ann).folder_name
    assert alone == "ann~v~000000~000009"
    pair, turned = (EvaluationJob("animation", *ids).folder_name for ids in ((ann, ben), (ben, ann)))
    assert pair == "ann~v~000000~000009~~ben~v~000000~000009"
    assert len({alone, pair, turned}) == 3


def test_long_ids_give_short_names_that_still_differ() -> None:
    long = ["x" * 120 + end for end in ("1", "2")]
    ids = [clip(person, video="y" * 120).clip_id for person in long]
    names = {EvaluationJob("animation", ids[0], other).folder_name for other in ids}
    assert len(names) == 2
    assert all(len(name) <= 200 for name in names)


@pytest.mark.parametrize("evil", ["../../etc/passwd", "a#b#c", "a b#v#000000#000009", ""])
def test_ids_that_are_none_never_become_paths(evil: str) -> None:
    with pytest.raises(ValueError, match="is not person#video"):
        _ = EvaluationJob("reconstruction", evil, evil).folder_name
