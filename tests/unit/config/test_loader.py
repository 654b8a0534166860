"""Settings are strict: every mistake is one line that names file and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.config import ModelConfig, Settings, dump_settings, load_settings, parse_settings, settings_hash
from safa.config.model import smallest_discriminator_input
from safa.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError, run_reporting_errors
from safa.files import Location


class Inner(Settings):
    rate: float = 1.0
    names: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()


class Outer(Settings):
    steps: int
    folder: Path | None = None
    inner: Inner = Inner()


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return load_settings(path, Outer, overrides)


def test_reads_and_overrides(tmp_path: Path) -> None:
    loaded = load(tmp_path, "steps: 3\nfolder: a/b\n", "inner.rate=1e-4", "inner.names=[x, y]", "steps=5")
    assert loaded == Outer(steps=5, folder=Path("a/b"), inner=Inner(rate=1e-4, names=("x", "y")))


@pytest.mark.parametrize(
    ("text", "override", "complaint"),
    [
        ("steps: 3\nstep: 4", None, "unknown key 'step'"),
        ("steps: 3\ninner: {rat: 1}", None, "unknown key 'inner.rat'"),
        ("folder: x", None, "missing key 'steps'"),
        ("steps: '3'", None, "key 'steps' is '3'"),
        ("steps: 3.5", None, "key 'steps' is 3.5"),
        ("steps: true", None, "key 'steps' is True"),
        ("steps: 3\nsteps: 4", None, "given twice"),
        ("steps: [", None, "not valid YAML"),
        ("- 1", None, "not a mapping"),
        ("steps: 3", "inner.rate", "not of the form"),
        ("steps: 3", "steps.x=1", "not a section"),
        ("steps: 3", "nothing=1", "unknown key 'nothing'"),
        ("steps: 3\nstep: 4", None, "Did you mean 'steps'?"),
        ("steps: 3\ninner: {rat: 1}", None, "Did you mean 'inner.rate'?"),
        ("steps: 3\nrate: 1", None, "Did you mean 'inner.rate'?"),
        (
            "steps: 3\nfolder: s3://bucket/a",
            None,
            "key 'folder': only a path works here, not the address s3://bucket/a",
        ),
        ("steps: 3\nfolder: hdfs://a/b", None, "only a path works here"),
        ("steps: 3\ninner: {paths: ['https://a/b']}", None, "key 'inner.paths.0': only a path"),
        ("steps: 2024-01-01", None, "key 'steps' is '2024-01-01'"),
        ("steps: !!binary aGk=", None, "not plain data"),
    ],
)
def test_each_mistake_is_one_line(tmp_path: Path, text: str, override: str | None, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *([override] if override else []))
    message = str(caught.value)
    assert complaint in message
    assert "\n" not in message
    assert "job.yaml" in message or "--set" in message


def test_a_missing_file_is_reported() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        load_settings(Path("nowhere.yaml"), Outer)


@given(st.integers(1, 10**6), st.floats(0, 1e6), st.lists(st.text(max_size=8), max_size=3))
def test_dump_reads_back_equal(steps: int, rate: float, names: list[str]) -> None:
    import yaml

    settings = Outer(steps=steps, inner=Inner(rate=rate, names=tuple(names)))
    back = parse_settings(yaml.safe_load(dump_settings(settings)), Outer, "here")
    assert back == settings
    assert settings_hash(back) == settings_hash(settings)


def test_hash_moves_with_any_setting() -> None:
    assert settings_hash(Outer(steps=1)) != settings_hash(Outer(steps=2))
    assert settings_hash(ModelConfig()) != settings_hash(ModelConfig(keypoint_variance=0.02))


class Files(Settings):
    one: Path
    maybe: Path | None = None
    several: tuple[Path, ...] = ()
    location: Location = Path("data")
    text: str = "not/a/path"


class Job(Settings):
    files: Files
    more: tuple[Files, ...] = ()


def test_every_path_becomes_absolute_however_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = Files(one=Path("a"), maybe=Path("b"), several=(Path("c"), Path("/d")), location="s3://bucket/e")
    job = Job(files=files, more=(Files(one=Path("f")),)).with_absolute_paths()
    assert job.files == Files(
        one=tmp_path / "a",
        maybe=tmp_path / "b",
        several=(tmp_path / "c", Path("/d")),
        location="s3://bucket/e",
    )
    assert job.more == (Files(one=tmp_path / "f", location=tmp_path / "data"),)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer(steps=1).steps = 2  # type: ignore[misc]


def test_model_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"keypoints\.hourglass\.num_blocks=5 does not fit a 16 px input"):
        ModelConfig(image_size=64)


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_smallest_discriminator_input_is_exact(blocks: int) -> None:
    def fits(side: int) -> bool:
        for block in range(blocks):
            side -= 3
            if block < blocks - 1:
                side //= 2
        return side >= 2  # the last instance norm needs more than one pixel

    assert fits(smallest_discriminator_input(blocks))
    assert not fits(smallest_discriminator_input(blocks) - 1)


def test_programs_end_in_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise UserError("no such folder", "videos/", "Check the path.")

    assert run_reporting_errors(body) == EXIT_USER_ERROR
    assert capsys.readouterr().err == "error: videos/: no such folder. Check the path.\n"


def test_interrupt_says_how_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise KeyboardInterrupt

    assert run_reporting_errors(body) == EXIT_INTERRUPTED
    assert "resume" in capsys.readouterr().err


def test_user_errors_survive_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(UserError("a", "b", "c")))
    assert (error.what, error.where, error.fix, str(error)) == ("a", "b", "c", "b: a. c")
