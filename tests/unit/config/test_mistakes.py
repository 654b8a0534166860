"""Mistakes in the sections of a union are named as they were written, with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from safa.config import load_settings
from safa.config.preprocess import PreprocessConfig
from safa.config.training import TrainConfig
from safa.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


def complaint(name: str, *overrides: str) -> str:
    model = TrainConfig if name == "train" else PreprocessConfig
    with pytest.raises(UserError) as caught:
        load_settings(CONFIGS / f"{name}.yaml", model, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "override", "says", "fix"),
    [
        (
            *("preprocess", "source.kind=videos", "'csv' in section 'source' belongs to another kind"),
            "Give the section as a whole: --set 'source={kind: videos, folder: ...}'.",
        ),
        (
            *("preprocess", "source.download.kind=url", "'sleep_s' in section 'source.download' belongs to"),
            "--set 'source.download={kind: url, url: ...}'",
        ),
        (
            "preprocess",
            "landmarks.kind=auto",
            "'detector' in section 'landmarks'",
            "'landmarks={kind: auto}'",
        ),
        (
            "preprocess",
            "source.kind=video",
            "key 'source.kind' is 'video'",
            "one of metadata, videos, clips.",
        ),
        ("preprocess", "source={folder: x}", "missing key 'source.kind'", "Add it."),
        ("preprocess", "source={kind: videos}", "missing key 'source.folder'. Add it.", ""),
        (
            *("preprocess", "source={kind: clips, a: 1, b: 2, c: 3, d: 4, e: 5}"),
            "missing key 'source.folder' (also wrong: source.a, source.b, source.c and 2 more)",
            "",
        ),
        ("preprocess", "landmarks={kind: auto, detector: 1}", "unknown key 'landmarks.detector'", ""),
        (
            "train",
            "scale.num_workers=x",
            "'scale.num_workers' is 'x': Input should be a valid integer or 'auto'",
            "",
        ),
        ("train", "stage.kind=head", "'init' in section 'stage'", "'stage={kind: head}'"),
        ("train", "stage.lrr=3", "unknown key 'stage.lrr'. Did you mean 'stage.lr'?", ""),
        ("train", "stage.lr={a: 1}", "unknown key 'stage.lr.a'", ""),
    ],
)
def test_sections_of_a_kind(name: str, override: str, says: str, fix: str) -> None:
    message = complaint(name, override)
    assert says in message
    assert fix in message
    assert message.startswith(f"--set {override}")
    assert "\n" not in message
