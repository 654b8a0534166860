"""Run folders: whose they are, what a refusal says, and counts that cannot be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.run_folder import (
    CONFIG,
    LOCK,
    check_counts,
    check_settings,
    differences,
    has_output,
    lock_settings,
    record_settings,
    refuse_nothing,
    write_manifest,
)
from safa.config import Settings, load_settings
from safa.errors import UserError
from safa.files import Location, atomic_write, dir_exists, exists, join, read_bytes


class Inner(Settings):
    rate: float = 1e-5
    names: tuple[str, ...] = ("a",)
    machines: int = 1


class Given(Settings):
    size: int = 64
    inner: Inner = Inner()
    out: Path = Path("x")


class Hashed(Given):
    model_sha256: str = "aaaa"


NOT_HASHED = frozenset({"inner.machines"})


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    location = tmp_path / "run" if request.param == "disk" else request.getfixturevalue("s3")
    return join(location)


def _with_output(folder: Location, settings: Settings) -> None:
    lock_settings(folder, settings, NOT_HASHED)
    atomic_write(join(folder, "clips", "a.parquet"), b"x")


def test_a_check_writes_nothing(folder: Location) -> None:
    check_settings(folder, Given(), NOT_HASHED)
    assert not exists(folder)


def test_a_refusal_names_the_settings_that_differ(folder: Location) -> None:
    _with_output(folder, Given())
    check_settings(folder, Given(inner=Inner(machines=8)), NOT_HASHED)
    changed = Given(size=128, inner=Inner(rate=2e-4, names=("a", "b"), machines=8))
    expected = r"other settings \(size: 64 -> 128, inner.rate: 1e-05 -> 0.0002, inner.names: .'a'. -> "
    with pytest.raises(UserError, match=expected) as refusal:
        check_settings(folder, changed, NOT_HASHED)
    assert "machines" not in str(refusal.value)
    assert "choose another folder" in str(refusal.value)


def test_of_many_settings_the_first_three_are_named(tmp_path: Path) -> None:
    _with_output(tmp_path, Given())
    changed = Given(size=128, inner=Inner(rate=1.0, names=()), out=Path("y"))
    with pytest.raises(UserError, match=r"inner.names: \['a'\] -> \[\], and 1 more\)"):
        check_settings(tmp_path, changed)


def test_a_start_that_failed_at_once_leaves_nothing_in_the_way(folder: Location) -> None:
    record_settings(folder, Given(size=63), NOT_HASHED)
    atomic_write(join(folder, ".lock"), "process 1\n")
    atomic_write(join(folder, "versions.json"), "{}")
    assert not has_output(folder)
    lock_settings(folder, Given(size=64), NOT_HASHED)
    atomic_write(join(folder, "metrics.csv"), "step\n")
    with pytest.raises(UserError, match=r"size: 64 -> 63"):
        check_settings(folder, Given(size=63), NOT_HASHED)


def test_empty_folders_are_no_output(tmp_path: Path) -> None:
    (tmp_path / "clips" / "mesh").mkdir(parents=True)
    (tmp_path / "clips" / "mesh" / ".tmp-half").touch()
    assert not has_output(tmp_path)
    (tmp_path / "clips" / "mesh" / "result.json").touch()
    assert has_output(tmp_path)


def test_a_recorded_config_can_be_used_again(tmp_path: Path) -> None:
    given = Given(size=32, inner=Inner(rate=3e-7))
    record_settings(tmp_path, Hashed(**dict(given)), NOT_HASHED, given)
    assert load_settings(tmp_path / CONFIG, Given) == given
    (tmp_path / "out.txt").touch()
    check_settings(tmp_path, Hashed(**dict(given)), NOT_HASHED)
    with pytest.raises(UserError, match=r"\(model_sha256: aaaa -> bbbb\)"):
        check_settings(tmp_path, Hashed(**dict(given), **{"model_sha256": "bbbb"}), NOT_HASHED)


@pytest.mark.parametrize("damage", ["", "- a\n- b\n", "a: [", "\x00"])
def test_a_damaged_config_still_refuses(tmp_path: Path, damage: str) -> None:
    _with_output(tmp_path, Given())
    (tmp_path / CONFIG).write_text(damage)
    with pytest.raises(UserError, match="holds output of other settings"):
        check_settings(tmp_path, Given(size=1), NOT_HASHED)


def test_folders_of_older_versions_are_still_theirs(tmp_path: Path) -> None:
    """Their hash is one line, and a key that came later is named as absent."""
    _with_output(tmp_path, Given())
    assert len((tmp_path / LOCK).read_text().splitlines()) == 1
    (tmp_path / CONFIG).write_text("size: 64\n")
    (tmp_path / LOCK).write_text("0123456789ab\n")
    with pytest.raises(UserError, match=r"inner.rate: absent -> 1e-05"):
        check_settings(tmp_path, Given(), NOT_HASHED)


def test_the_manifest_goes_to_a_store_too(folder: Location) -> None:
    write_manifest(folder, Given(), {"in": 1}, 1.0)
    assert b'"seconds": 1.0' in read_bytes(join(folder, "manifest.json"))
    assert not dir_exists(join(folder, "nothing"))


def test_differences_of_lists_and_missing_keys() -> None:
    stored = {"a": {"b": [1], "c": {}}, "gone": 1, "same": None}
    given = {"a": {"b": [2], "c": {"d": 1}}, "same": None}
    assert differences(stored, given) == [
        "a.b: [1] -> [2]",
        "a.c.d: absent -> 1",
        "a.c: {} -> absent",
        "gone: 1 -> absent",
    ]
    assert differences(stored, given, {"a", "gone"}) == []


def test_counts_that_add_up_pass() -> None:
    check_counts({"in": 3, "ok": 1, "quarantined": 2, "pending": 0}, "out")
    check_counts({"in": 3, "ok": 1, "quarantined": 1, "pending": 1}, "out", stopped=True)
    refuse_nothing({"in": 0, "ok": 0}, "out")
    refuse_nothing({"in": 2, "ok": 1}, "out", [("decode", "cut")])


def test_nothing_at_all_is_refused_with_the_most_frequent_reason() -> None:
    reasons = [("decode", "cut"), ("too_small", "the box is 9 px"), ("too_small", "the box is 8 px")]
    with pytest.raises(UserError, match=r"not one of 3 clips .* \(2 too_small, such as: the box is 9 px\)"):
        refuse_nothing({"in": 3, "ok": 0}, "out", reasons)
    with pytest.raises(UserError, match=r"not one of 3 clips could be used\. Read the reasons"):
        refuse_nothing({"in": 3, "ok": 0}, "out")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            {"in": 96, "ok": 0, "quarantined": 0, "pending": 96},
            "96 of 96 clips were neither made nor refused",
        ),
        ({"in": 96, "ok": 90, "quarantined": 5, "pending": 0}, "96 in, but 90 ok, 5 quarantined, 0 pending"),
        ({"in": 3, "ok": 3, "quarantined": 1}, "3 in, but 3 ok, 1 quarantined"),
    ],
)
def test_counts_that_cannot_be_right_are_refused(counts: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_counts(counts, "out")


def test_a_run_without_any_output_is_refused() -> None:
    with pytest.raises(UserError, match=r"out: not one of 4 clips could be used\. Read the reasons"):
        refuse_nothing({"in": 4, "ok": 0, "quarantined": 4}, "out")
