"""Which data set a person means by a folder."""

from pathlib import Path

import pytest

from safa.data.dataset_files import MANIFEST, clips_folder


@pytest.mark.parametrize("given", ["run", "run/data", "run/data/clips"])
def test_the_run_folder_of_a_chain_or_of_preprocessing_or_its_clips(given: str, tmp_path: Path) -> None:
    clips = tmp_path / "run" / "data" / "clips"
    clips.mkdir(parents=True)
    (clips / MANIFEST).touch()
    assert clips_folder(tmp_path / given) == clips


def test_a_folder_without_a_data_set_is_left_as_it_is(tmp_path: Path) -> None:
    assert clips_folder(tmp_path) == tmp_path
